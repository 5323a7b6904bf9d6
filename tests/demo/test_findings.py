"""What the demo says is what the figures say."""

import io
from collections.abc import Mapping

import pytest
from rich.console import Console

from promptkit.demo.findings import Figures, sentences, table

DOMAINS = ["cartoon", "photo", "sketch"]


def figures(gains: Mapping[str, Mapping[tuple[str, str], list[float]]]) -> Figures:
    """Zero-shot is 50 everywhere; the others are ahead of it by `gains`, for (class set, domain)."""
    accuracy = {
        (learner, classes, domain): [50.0 + gain for gain in gains.get(learner, {}).get((classes, domain), [0.0] * 3)]
        for learner in ("zeroshot", "coop", "gopro")
        for classes in ("base", "new")
        for domain in DOMAINS
    }
    return Figures(accuracy, ["zeroshot", "coop", "gopro"], "photo", DOMAINS)


def test_gains_losses_and_what_the_seeds_alone_would_make():
    found = figures(
        {
            "coop": {
                ("base", "photo"): [10, 11, 12],
                ("base", "cartoon"): [4, -4, 1],
                **{("new", domain): [-6, -7, -8] for domain in DOMAINS},
            },
            "gopro": {("base", "photo"): [20, 21, 22], ("base", "sketch"): [8, 9, 10]},
        }
    )
    training, transfer, new = sentences(found)
    assert training == (
        "Learned prompts pay where they were trained: on the base classes of photo, gopro reaches 71.0 ± 1.0 % and "
        "hand-made prompts 50.0 %; coop gains 11.0 ± 1.0 points and gopro gains 21.0 ± 1.0 points."
    )
    assert "(cartoon, sketch), gopro is best with 54.5 ± 0.5 %" in transfer
    assert "before coop by 4.3 ± 2.3 points, which is within what the seeds differ" in transfer
    assert "coop makes no clear difference (+0.2 ± 2.0) and gopro gains 4.5 ± 0.5 points" in transfer
    assert new.endswith("coop loses 7.0 ± 1.0 points and gopro makes no clear difference (+0.0 ± 0.0).")


def test_learners_that_did_not_learn_are_not_praised():
    worse = {("base", "photo"): [-3.0, -4.0, -5.0]}
    training, transfer, _ = sentences(figures({"coop": worse, "gopro": worse}))
    assert training.startswith("Learned prompts did not clearly pay")
    assert "within what the seeds differ" in transfer


@pytest.mark.parametrize("width", [100, 140])
def test_the_table_marks_the_best_of_each_row(width: int):
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(table(figures({"gopro": {("base", "photo"): [20, 21, 22]}})))
    text = console.export_text(styles=True)
    row = next(line for line in text.splitlines() if "photo, trained" in line)
    assert "\x1b[1m71.0 ± 1.0\x1b[0m" in row
    assert "\x1b[1m50.0" not in row
