"""Statistics of a few repetitions. With three seeds the 95 % interval is 2.5 standard deviations to either side."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas

FEWEST = 3
"""Values that an interval needs: with two it is nine standard deviations to either side, and says nothing."""
FEWEST_DATASETS = 6
"""That a test over data sets needs: Wilcoxon's finds no difference at 5 % between fewer, whatever they are."""


def statistics(values: Any, by: Any = None, within: tuple[float, float] = (-np.inf, np.inf)) -> pandas.DataFrame:
    """Mean, standard deviation and interval of a series, or of its groups by levels of the index.

    `within` is what the values can be: the interval ends there.

    Returns:
        A row for each group, with columns: mean; sd, of the sample, the sum of squares divided by n - 1; n; half_width: the
        95 % confidence interval of the mean is mean ± half_width, by Student's t with n - 1 degrees of freedom; low and high,
        its ends. What too few values have is NaN: sd of one, the interval of fewer than `FEWEST`.
    """
    from scipy.special import stdtrit

    values = pandas.Series(values, dtype=float)
    groups = values.groupby(level=by, sort=False) if by else values.groupby(np.zeros(len(values)))
    found = groups.agg(mean="mean", sd="std", n="count")
    n = found["n"].where(found["n"] >= FEWEST)
    half = stdtrit(n - 1, 0.975) * found["sd"] / n**0.5
    low, high = ((found["mean"] + sign * half).clip(*within) for sign in (-1, 1))
    return found.assign(half_width=half, low=low, high=high)


def friedman(blocks: pandas.DataFrame) -> dict[str, float]:
    """Are several learners, one a column, equal over data sets, one a row?

    Returns:
        chi2, Friedman's, corrected for ties, and p; f, Iman and Davenport's, which is less conservative, and p_of_f. See
        Demšar, JMLR 2006, section 3.2.2.
    """
    from scipy.stats import f, friedmanchisquare

    rows, learners = blocks.shape
    if blocks.nunique(axis=1).max() == 1:  # all are equal everywhere, and chi² is 0 / 0
        return {"chi2": 0.0, "p": 1.0, "f": 0.0, "p_of_f": 1.0}
    with np.errstate(divide="ignore"):  # all rank them the same
        chi2, p = friedmanchisquare(*(blocks[name] for name in blocks))
        ratio = np.float64((rows - 1) * chi2) / (rows * (learners - 1) - chi2)
    return {"chi2": chi2, "p": p, "f": ratio, "p_of_f": f.sf(ratio, learners - 1, (learners - 1) * (rows - 1))}


def wilcoxon(blocks: pandas.DataFrame) -> dict[tuple[str, str], dict[str, float]]:
    """Wilcoxon's signed-rank test over data sets, one a row, of every two learners, one a column.

    Returns:
        By two learners: wilcoxon, the p, and holm, the p that is corrected for as many comparisons. Differences of 0 are
        split evenly between both sides, as Demšar, JMLR 2006, section 3.1.3 has it.
    """
    from scipy.stats import wilcoxon as signed_rank

    pairs = list(combinations(blocks, 2))
    p = np.array([signed_rank(blocks[one], blocks[other], zero_method="zsplit").pvalue for one, other in pairs])
    return {pair: {"wilcoxon": one, "holm": other} for pair, one, other in zip(pairs, p, holm(p), strict=True)}


def holm(p: Any) -> Any:
    """p-values of several tests, corrected step by step for their number (Holm, 1979)."""
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(1, stepped[np.argsort(order)])
