"""Results as a data frame."""

from collections.abc import Sequence

import pandas

from promptkit.bench.results import Result


def results_frame(results: Sequence[Result]) -> pandas.DataFrame:
    """A row for each result: what it is of, its metrics, `slot.field` for settings, `packages.NAME` for versions."""
    nested = ("scores", "settings", "packages")
    return pandas.DataFrame(
        {
            **{key: value for key, value in vars(result).items() if key not in nested},
            **result.scores.figures,
            "n": result.scores.n,
            **result.settings,
            **{f"packages.{name}": version for name, version in result.packages.items()},
        }
        for result in results
    )
