"""Statistics of a few repetitions. With three seeds the 95 % interval is 2.5 standard deviations to either side."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

FEWEST = 3
"""Values that an interval needs: with two it is nine standard deviations to either side, and says nothing."""


@dataclass(frozen=True)
class Statistic:
    """A mean over `n` values. Of one value, or of a mean that is computed from means, the rest is unknown."""

    mean: float
    n: int
    sd: float | None = None
    """Of the sample: the sum of squares is divided by n - 1."""
    half_width: float | None = None
    """The 95 % confidence interval of the mean is mean ± half_width, by Student's t with n - 1 degrees of freedom.

    None for fewer than `FEWEST` values.
    """


def statistic(values: Sequence[float]) -> Statistic:
    """Of at least one value."""
    from scipy.special import stdtrit

    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Statistic(mean, n)
    sd = statistics.stdev(values)
    if n < FEWEST:
        return Statistic(mean, n, sd)
    return Statistic(mean, n, sd, float(stdtrit(n - 1, 0.975)) * sd / n**0.5)
