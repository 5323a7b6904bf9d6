"""Results, statistics of them, and comparisons of learners, as data frames."""

from collections.abc import Sequence

import pandas

from promptkit.experiments.comparison import Comparison
from promptkit.experiments.published import published_figure
from promptkit.experiments.results import Result
from promptkit.experiments.summary import Summary


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


def statistics_frame(summaries: Sequence[Summary]) -> pandas.DataFrame:
    """A row for each row of the tables and each learner, with its mean and interval, in per cent."""
    return pandas.DataFrame(
        {
            "table": summary.title,
            **row._asdict(),
            "learner": one.Index,
            "mean": one.mean,
            "sd": one.sd,
            "low": one.low,
            "high": one.high,
            "seeds": one.n,
            "published": published_figure(summary, row, one.Index),
        }
        for summary in summaries
        for row, found in summary.statistics.items()
        for one in found.itertuples()
    )


def comparison_frame(comparisons: Sequence[Comparison]) -> pandas.DataFrame:
    """A row for each figure and two learners: their differences in per cent, and what tests over data sets say."""
    frames = []
    for one in comparisons:
        pairs = one.pairs.astype({"n": int}).rename(columns={"n": "pairs"}).assign(table=one.summary.title)
        tests = one.ranks.reindex(columns=["datasets", "chi2", "p", "f", "p_of_f"]).add_prefix("friedman.")
        ranks = one.ranks.reindex(columns=one.learners).stack().rename("rank")
        pairs = pairs.join(tests, on="figure").join(ranks, on=["figure", "learner"])
        frames.append(pairs.join(ranks.rename("rank_of_less"), on=["figure", "less"]).drop(columns="half_width"))
    return pandas.concat(frames, ignore_index=True)
