"""Statistics against numpy and printed tables; means, harmonic means, comparisons, published figures."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from pandas import DataFrame, isna
from scipy.stats import norm

from promptkit.errors import DataError, UnknownNameError
from promptkit.experiments.comparison import compared as pairs
from promptkit.experiments.formats import Table
from promptkit.experiments.frame import comparison_frame, statistics_frame
from promptkit.experiments.published import published, published_figure
from promptkit.experiments.results import Result
from promptkit.experiments.statistics import friedman, holm, statistics, wilcoxon
from promptkit.experiments.summary import AVERAGE, MEAN, OF_MEANS, OF_SEEDS, WORST, Row, Summary, summaries, summarize
from promptkit.experiments.tables import all_statistics, comparisons, side_by_side
from promptkit.metrics import STANDARD, Metric

MakeResult = Callable[..., Result]


def column(table: Table, name: str) -> dict[tuple[str, ...], str]:
    """The cells of a column, by the labels of their row."""
    place = table.columns.index(name)
    return {row[: table.labels]: row[place] for row in table.rows}


def of(summary: Summary, row: Row, learner: str = "coop") -> Any:
    """The statistics of a learner: mean, sd, n and half_width."""
    (found,) = summary.statistics[row].loc[[learner]].itertuples()
    return found


# 97.5 % quantiles of Student's t, as tables print them.
@pytest.mark.parametrize(("n", "quantile"), [(3, 4.303), (4, 3.182), (5, 2.776), (11, 2.228), (31, 2.042)])
def test_the_interval_is_students(n: int, quantile: float) -> None:
    values = list(np.random.default_rng(n).normal(70, 5, n))
    (found,) = statistics(values).itertuples()
    assert found.mean == pytest.approx(np.mean(values))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert found.half_width == pytest.approx(quantile * np.std(values, ddof=1) / np.sqrt(n), rel=3e-4)


def test_one_value_has_no_spread() -> None:
    (found,) = statistics([3.0]).itertuples()
    assert (found.mean, found.n, isna(found.sd), isna(found.half_width)) == (3.0, 1, True, True)


def test_an_interval_of_a_share_ends_where_shares_end(result: MakeResult) -> None:
    values = {"coop": (0.01, 0.5, 0.02), "gopro": (0.99, 0.5, 0.98)}
    results = [
        result(x, learner=learner, seed=seed) for learner, found in values.items() for seed, x in enumerate(found)
    ]
    summary = summarize(results)
    table = all_statistics(summary)
    ends = {row[3]: (float(row[6]), float(row[7])) for row in table.rows}
    for learner, found in values.items():
        half = 4.3027 * 100 * np.std(found, ddof=1) / np.sqrt(3)
        mean = 100 * np.mean(found)
        assert ends[learner] == pytest.approx((max(0, mean - half), min(100, mean + half)), abs=0.01)
    assert (ends["coop"][0], ends["gopro"][1]) == (0, 100)
    (compared,) = comparisons([summary], ["gopro", "coop"])
    assert compared.rows[0][4] == "+100.00"
    frame = statistics_frame([summary]).set_index("learner")
    assert (frame.low["coop"], frame.high["gopro"]) == (0, 100)
    assert comparison_frame(pairs([summary], ["gopro", "coop"])).high.item() == 100
    assert "interval" not in table.title + compared.title
    kappa = Metric("kappa", lambda predictions, classes: 0.0, True, "")
    chance = [result(0.5, seed=seed, kappa=x) for seed, x in enumerate((-0.1, 0.0, 0.1))]
    assert statistics_frame([summarize(chance, kappa)]).low.item() < -20, "a metric of a plugin may be less than 0"


def test_below_three_seeds_the_reason_stands_for_the_interval(result: MakeResult) -> None:
    results = [
        result(x, learner=learner, seed=seed) for learner in ("coop", "gopro") for seed, x in ((1, 0.3), (2, 0.4))
    ]
    table = all_statistics(summarize(results))
    assert {row[4:8] for row in table.rows} == {("35.00", "7.07", "", "")}
    assert table.title.endswith("statistics over seeds, %; no 95 % interval from fewer than 3 seeds")
    (compared,) = comparisons([summarize(results)], ["gopro", "coop"])
    assert compared.rows[0][1:5] == ("+0.00", "0.00", "", "")
    assert compared.title.endswith("no 95 % interval from fewer than 3 pairs")


def test_both_harmonic_means(result: MakeResult) -> None:
    base, new = {1: 0.8, 2: 0.9}, {1: 0.6, 2: 0.3}
    summary = summarize(
        [result(value, classes="base", seed=seed) for seed, value in base.items()]
        + [result(value, classes="new", seed=seed) for seed, value in new.items()]
    )

    def harmonic(a: float, b: float) -> float:
        return 2 * a * b / (a + b)

    of_means = of(summary, Row("DTD", "all", OF_MEANS))
    assert of_means.mean == pytest.approx(100 * harmonic(0.85, 0.45))
    assert isna(of_means.sd)
    seeds = [100 * harmonic(base[seed], new[seed]) for seed in (1, 2)]
    of_seeds = of(summary, Row("DTD", "all", OF_SEEDS))
    assert (of_seeds.mean, of_seeds.sd) == pytest.approx((np.mean(seeds), np.std(seeds, ddof=1)))
    assert of_means.mean != pytest.approx(of_seeds.mean)


def test_means_over_domains_and_data_sets_go_seed_by_seed(result: MakeResult) -> None:
    rng = np.random.default_rng(0)
    accuracy = {key: float(rng.uniform()) for key in product("AB", ("photo", "sketch"), (1, 2, 3))}
    about = {"protocol": "leave-one-domain-out", "classes": "all"}
    summary = summarize(
        [
            result(x, title=title, dataset=title, domain=domain, seed=seed, **about)
            for (title, domain, seed), x in accuracy.items()
        ]
    )
    means = {s: {t: 50 * (accuracy[t, "photo", s] + accuracy[t, "sketch", s]) for t in "AB"} for s in (1, 2, 3)}
    found = of(summary, Row("A", MEAN, "accuracy"))
    assert (found.mean, found.n) == (pytest.approx(np.mean([means[s]["A"] for s in means])), 3)
    worst = [100 * min(accuracy["B", "photo", s], accuracy["B", "sketch", s]) for s in (1, 2, 3)]
    assert of(summary, Row("B", WORST, "accuracy")).mean == pytest.approx(np.mean(worst))
    averages = [(means[s]["A"] + means[s]["B"]) / 2 for s in means]
    found = of(summary, Row(AVERAGE, "all", "accuracy"))
    assert (found.mean, found.sd) == pytest.approx((np.mean(averages), np.std(averages, ddof=1)))


def test_an_average_never_mixes_what_is_missing(result: MakeResult) -> None:
    both = [result(0.5, title=title, dataset=title, seed=1) for title in "AB"]
    summary = summarize(
        [*both, result(0.9, title="A", dataset="A", seed=2), result(0.9, title="A", dataset="A", learner="gopro")]
    )
    found = summary.statistics[Row(AVERAGE, "all", "base")]
    assert {one.Index: (one.mean, one.n) for one in found.itertuples()} == {"coop": (50.0, 1)}


def test_what_no_seed_has_in_full_has_no_row(result: MakeResult) -> None:
    """Shards under way: each learner has one seed in one place, and another in the other."""
    about = {"protocol": "few-shot", "classes": "all"}
    places = {("A", "photo"): 1, ("A", "sketch"): 2, ("B", "photo"): 1, ("B", "sketch"): 3}
    results = [
        result(0.5, dataset=title, title=title, domain=domain, seed=seed, learner=learner, **about)
        for (title, domain), seed in places.items()
        for learner in ("coop", "gopro")
    ]
    summary = summarize(results)
    assert [(row.dataset, row.domain) for row in summary.statistics] == list(places)
    assert len(side_by_side(summary).rows) == 4
    assert len(all_statistics(summary).rows) == 8
    with pytest.raises(DataError, match="no data set and seed in common"):
        comparisons([summary], ["coop", "gopro"])

    halves = summarize([result(0.5, classes="base", seed=1), result(0.5, classes="new", seed=2)])
    assert [row.figure for row in halves.statistics] == ["base", "new", OF_MEANS]
    unknown = summarize([result(0.5, classes="base"), result(0.5, classes="new", learner="gopro")])
    assert [row.figure for row in unknown.statistics] == ["base", "new"]


def test_transfers_from_two_data_sets_are_two_tables(result: MakeResult) -> None:
    about = {"protocol": "cross-dataset", "classes": "all"}
    results = [
        result(0.1 * number, dataset=name, title=name, source=source, **about)
        for source in "ab"
        for number, name in enumerate("abc", 1)
    ]
    of_a, of_b = summaries(results)
    assert ("trained on a" in of_a.title, "trained on b" in of_b.title) == (True, True)
    assert (list(of_a.whole), list(of_b.whole)) == (["b", "c"], ["a", "c"])
    averages = [of(summary, Row(AVERAGE, "all", "accuracy")) for summary in (of_a, of_b)]
    assert [found.mean for found in averages] == pytest.approx([25, 20])
    assert [summary.protocol for summary in summaries([*results, result(0.5)])] == [
        "base-to-new",
        *2 * ["cross-dataset"],
    ]


def test_the_source_of_a_transfer_is_shown_and_not_averaged(result: MakeResult) -> None:
    about = {"protocol": "cross-dataset", "classes": "all", "source": "imagenet"}
    titles = {"imagenet": ("ImageNet", 0.9), "caltech101": ("Caltech101", 0.5), "dtd": ("DTD", 0.3)}
    summary = summarize(
        [result(x, dataset=name, title=title, **about) for name, (title, x) in reversed(titles.items())]
    )
    assert [row.dataset for row in summary.statistics] == ["ImageNet", "Caltech101", "DTD", AVERAGE]
    assert of(summary, Row(AVERAGE, "all", "accuracy")).mean == pytest.approx(40)


def test_the_best_is_marked_once_or_shared(result: MakeResult) -> None:
    results = [result(0.5, learner="coop"), result(0.7, learner="gopro"), result(0.70001, learner="zeroshot")]
    table = side_by_side(summarize(results))
    assert table.columns[-3:] == ("zeroshot", "coop", "gopro")
    assert {(table.rows[row][0], table.columns[place]) for row, place in table.best} == {
        ("DTD", "zeroshot"),
        ("DTD", "gopro"),
    }
    calibration = side_by_side(summarize(results, STANDARD["ece"]))
    assert {calibration.columns[place] for _, place in calibration.best} == {"zeroshot", "gopro"}
    assert not side_by_side(summarize(results[:1])).best
    lower = summarize([result(0.5, ece=0.1), result(0.7, learner="gopro", ece=0.3)], STANDARD["ece"])
    assert {side_by_side(lower).columns[place] for _, place in side_by_side(lower).best} == {"coop"}


def test_empty_columns_are_left_out(result: MakeResult) -> None:
    table = all_statistics(summarize([result(0.5, weights="none"), result(0.7, learner="gopro", weights="none")]))
    trimmed = table.trimmed()
    assert trimmed.columns == ("data set", "figure", "learner", "mean", "seeds")
    assert trimmed.rows == (("DTD", "base", "coop", "50.00", "1"), ("DTD", "base", "gopro", "70.00", "1"))
    assert (trimmed.labels, trimmed.best) == (3, {(1, 3)})


def test_learners_are_told_apart_by_what_differs(result: MakeResult) -> None:
    several = summarize([result(0.5, shots=shots, protocol="few-shot", classes="all") for shots in (1, 16, 0)])
    assert set(several.results) == {"coop 1 shot", "coop 16 shots", "coop all pictures"}
    drawn = summarize([result(0.5), result(0.7, split="drawn")])
    assert [row.dataset for row in drawn.statistics] == ["DTD", "DTD (drawn)", AVERAGE]
    assert "16 shots, ViT-B-16 openai" in drawn.title


def test_data_sets_of_one_title_are_told_apart(result: MakeResult) -> None:
    ours = result(0.7, dataset="DTD", split="given")
    summary = summarize([result(0.8), ours])
    assert {row.dataset: round(of(summary, row).mean) for row in summary.statistics} == {
        "DTD (dtd, published)": 80,
        "DTD (DTD, given)": 70,
        AVERAGE: 75,
    }
    shown = column(all_statistics(summary), "published")
    assert {labels[0]: cell for labels, cell in shown.items()} == {
        "DTD (dtd, published)": "79.44",
        "DTD (DTD, given)": "",
        AVERAGE: "",
    }


def test_templates_are_told_apart_where_one_thing_was_asked_with_several(result: MakeResult) -> None:
    def asked(accuracy: float, template: str, title: str = "DTD") -> Result:
        return result(accuracy, learner="zeroshot", template=template, title=title, dataset=title.lower())

    own = [asked(0.5, "{} texture."), asked(0.6, "a photo of {}.", "Pets"), result(0.7)]
    assert list(summarize(own).results) == ["zeroshot", "coop"]
    several = summarize([*own, asked(0.4, "one {}"), asked(0.3, "one {}\ntwo {}"), asked(0.2, "one {}\n2 {}")])
    row = several.statistics[Row("DTD", "all", "base")]
    means = row["mean"].to_dict()
    assert means.pop("coop") == 70
    assert (means.pop("zeroshot '{} texture.'"), means.pop("zeroshot 'one {}'")) == (50, 40)
    assert sorted(means.values()) == [20, 30]
    assert all(learner.startswith("zeroshot 'one {}' and 1 more (") for learner in means)


def test_learners_are_compared_wherever_both_are(result: MakeResult) -> None:
    few = {"protocol": "few-shot", "classes": "all"}
    results = [
        result(accuracy, learner=learner, shots=shots, **few)
        for learner, shots, accuracy in (("gopro", 1, 0.5), ("gopro", 2, 0.6), ("coop", 2, 0.3), ("coop", 4, 0.2))
    ]
    results += [result(0.9, learner="gopro"), result(0.9, protocol="cross-dataset", classes="all", source="imagenet")]
    (table,) = comparisons(summaries(results), ["gopro", "coop"])
    assert "few-shot" in table.title
    assert "gopro 2 shots less coop 2 shots" in table.title
    assert table.rows[0][:2] == ("accuracy", "+30.00")
    (same,) = comparisons(summaries(results), ["gopro 1 shot", "coop 4 shots"])
    assert same.rows[0][:2] == ("accuracy", "+30.00")


def test_learners_are_compared_pair_by_pair(result: MakeResult) -> None:
    values = {("A", 1): (0.5, 0.4), ("A", 2): (0.5, 0.5), ("B", 1): (0.3, 0.6), ("B", 2): (0.9, 0.1)}
    results = []
    for (title, seed), pair in values.items():
        for learner, x in zip(("gopro", "coop"), pair, strict=True):
            results.append(result(x, title=title, dataset=title, seed=seed, learner=learner))
    results.append(result(0.9, title="A", dataset="A", seed=3, learner="gopro"))
    (table,) = comparisons([summarize(results)], ["gopro", "coop"])
    (row,) = table.rows
    differences = [100 * (one - other) for one, other in values.values()]
    assert row[:3] == ("base", f"{np.mean(differences):+.2f}", f"{np.std(differences, ddof=1):.2f}")
    half = 3.1824 * np.std(differences, ddof=1) / 2
    assert row[3:5] == (f"{np.mean(differences) - half:+.2f}", f"{np.mean(differences) + half:+.2f}")
    assert row[5:] == ("2", "1", "1", "4", "", "")
    with pytest.raises(UnknownNameError, match="did you mean 'coop'"):
        comparisons([summarize(results)], ["gopro", "cop"])
    alone = [result(0.5), result(0.5, learner="gopro", seed=2)]
    with pytest.raises(DataError, match="no data set and seed in common"):
        comparisons([summarize(alone)], ["gopro", "coop"])


# AUC of C4.5 and three variants on 14 data sets: Demšar, JMLR 2006, table 6.
AUC = """
.763 .768 .771 .798  .599 .591 .590 .569  .954 .971 .968 .967  .628 .661 .654 .657  .882 .888 .886 .898  .936 .931 .916 .931
.661 .668 .609 .685  .583 .583 .563 .625  .775 .838 .866 .875  1 1 1 1  .940 .962 .965 .962  .619 .666 .614 .669
.972 .981 .975 .975  .957 .978 .946 .970
"""


def test_learners_are_tested_over_data_sets_as_demsar_has_it() -> None:
    auc = DataFrame(np.array(AUC.split(), float).reshape(14, 4), columns=["C4.5", "+m", "+cf", "+m+cf"])
    # His Wilcoxon test of the first two has T = 12.
    z = (12 - 14 * 15 / 4) / np.sqrt(14 * 15 * 29 / 24)
    assert wilcoxon(auc)["C4.5", "+m"]["wilcoxon"] == pytest.approx(2 * norm.cdf(z), rel=0.01)
    untied = auc[auc.nunique(axis=1) == 4]
    n, k = untied.shape
    ranks = untied.rank(axis=1).mean()
    chi2 = 12 * n / (k * (k + 1)) * ((ranks**2).sum() - k * (k + 1) ** 2 / 4)
    found = friedman(untied)
    assert (found["chi2"], found["f"]) == pytest.approx((chi2, (n - 1) * chi2 / (n * (k - 1) - chi2)))
    assert found["p_of_f"] < found["p"]
    assert friedman(auc.iloc[[9] * 6]) == {"chi2": 0, "p": 1, "f": 0, "p_of_f": 1}
    assert list(holm(np.array([0.01, 0.04, 0.03, 0.005]))) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_several_learners_are_compared_two_at_a_time_and_ranked(result: MakeResult) -> None:
    rng = np.random.default_rng(0)
    better = {"zeroshot": 0.0, "coop": 0.1, "gopro": 0.2}
    results = [
        result(round(0.3 + bonus + rng.uniform(0, 0.05), 3), learner=learner, dataset=name, title=name, seed=seed)
        for learner, bonus in better.items()
        for name in "ABCDEFG"
        for seed in (1, 2)
    ]
    pairs, ranks = comparisons([summarize(results)], ["zeroshot", "coop", "gopro"])
    assert [row[:3] for row in pairs.rows] == [
        ("base", "zeroshot", "coop"), ("base", "zeroshot", "gopro"), ("base", "coop", "gopro")
    ]  # fmt: skip
    # Of seven data sets all go one way: p = 2 / 2 ** 7, and three times that by Holm.
    assert {row[-2:] for row in pairs.rows} == {("0.0156", "0.0469")}
    assert {row[-3] for row in pairs.rows} == {"14"}
    (row,) = ranks.rows
    assert row == ("base", "7", "14", "0.000912", "inf", "0", "3.00", "2.00", "1.00")
    assert ranks.best == {(0, ranks.columns.index("gopro"))}
    ece = comparisons([summarize(results, STANDARD["ece"])], ["zeroshot", "coop", "gopro"])[1]
    assert ece.rows[0][-3:] == ("3.00", "2.00", "1.00")
    few = [one for one in results if one.dataset in "ABC"]
    pairs, ranks = comparisons([summarize(few)], ["zeroshot", "coop", "gopro"])
    assert {row[-2:] for row in pairs.rows} == {("", "")}
    assert ranks.title.endswith("no test over data sets: it needs 6 that all learners have, and there are 3")
    assert not ranks.rows
    (pair,) = comparisons([summarize(results)], ["gopro", "coop"])
    assert pair.rows[0][-2:] == ("0.0156", "0.0156")


def test_the_published_figure_stands_beside_the_same_thing(result: MakeResult) -> None:
    both = [result(0.8, classes="base"), result(0.5, classes="new"), result(0.6, classes="base", learner="kgcoop")]
    table = all_statistics(summarize(both))
    known = {figure: published()["base-to-new", "coop", "DTD", figure] for figure in ("base", "new", "harmonic_mean")}
    assert known == {"base": 79.44, "new": 41.18, "harmonic_mean": 54.24}
    shown, difference = column(table, "published"), column(table, "difference")
    row = ("DTD", "", "base", "coop")
    assert (shown[row], difference[row]) == ("79.44", "+0.56")
    row = ("DTD", "", OF_MEANS, "coop")
    assert (shown[row], difference[row]) == ("54.24", f"{100 * 0.8 / 1.3 - 54.24:+.2f}")
    assert shown["DTD", "", OF_SEEDS, "coop"] == shown["DTD", "", "base", "kgcoop"] == ""


@pytest.mark.parametrize(
    "other",
    [
        {"shots": 8}, {"split": "drawn"}, {"split": "given"}, {"backbone": "RN50"}, {"weights": "none"},
        {"title": "textures"},
    ],
)  # fmt: skip
def test_nothing_published_stands_beside_another_thing(other: dict[str, object], result: MakeResult) -> None:
    assert set(column(all_statistics(summarize([result(0.8, **other)])), "published").values()) == {""}


def test_a_published_average_needs_the_same_data_sets(result: MakeResult) -> None:
    titles = {dataset for protocol, _, dataset, _ in published() if protocol == "base-to-new"} - {AVERAGE}
    assert len(titles) == 11
    results = [result(0.8, title=title, dataset=title) for title in sorted(titles)]
    row = Row(AVERAGE, "all", "base")
    assert published_figure(summarize(results), row, "coop") == 82.69
    assert published_figure(summarize(results[1:]), row, "coop") is None
    assert published_figure(summarize(results, STANDARD["macro_accuracy"]), row, "coop") is None


def test_published_figures_agree_with_each_other() -> None:
    """A slip in copying them would show here; the one that is known stands in the docstring of the module."""
    figures = published()
    slips = set()
    for protocol, learner, dataset, figure in figures:
        if figure == "harmonic_mean":
            base, new = (figures[protocol, learner, dataset, half] for half in ("base", "new"))
            if abs(figures[protocol, learner, dataset, figure] - 2 * base * new / (base + new)) > 0.02:
                slips.add((learner, dataset))
    assert slips == {("cocoop", "Flowers102")}
