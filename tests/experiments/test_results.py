"""Result files: written whole, read with tolerance."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from promptkit.errors import DataError, OutputError
from promptkit.experiments.results import RESULTS, Result, from_line, read_results, to_line, write_results
from promptkit.experiments.summary import summaries
from promptkit.metrics import STANDARD

MakeResult = Callable[..., Result]


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setattr(logging.getLogger("promptkit"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def test_a_line_holds_everything(result: MakeResult) -> None:
    written = result(0.75, template="a {}\nb {}")
    line = to_line(written)
    assert line.count("\n") == 1
    content = json.loads(line)
    scores = content["result"]["scores"]
    assert (scores["figures"]["accuracy"], scores["per_class"], scores["n"]) == (0.75, [0.75, None], 50)
    assert content["result"]["seed"] == 1
    assert from_line(line) == written


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scores.figures", {"accuracy": 1.5}), ("scores.figures", {"ece": True}), ("scores.figures", {"x": None}),
        ("scores.figures", 0.5), ("seed", -1), ("seed", "1"), ("shots", 1.0), ("learner", 3),
        ("scores.per_class", 0.5), ("scores.per_class", ["x"]), ("scores.n", None), ("more", 1),
    ],
)  # fmt: skip
def test_a_line_that_is_not_sound_says_where(name: str, value: object, result: MakeResult) -> None:
    content = json.loads(to_line(result(0.5)))
    slot, _, field = name.rpartition(".")
    (content["result"][slot] if slot else content["result"])[field] = value
    with pytest.raises(ValueError, match=rf"no sound result\.{name}"):
        from_line(json.dumps(content))


def test_a_metric_that_a_result_has_not_leaves_a_blank_and_one_that_nobody_knows_is_kept(result: MakeResult) -> None:
    written = result(0.5, kappa=-3.5)
    read = from_line(to_line(written))
    assert read.scores["kappa"] == -3.5
    old = replace(written, scores=replace(written.scores, figures={"accuracy": 0.4}), seed=2)
    (summary,) = summaries([written, old], STANDARD["macro_f1"])
    assert [count for found in summary.statistics.values() for count in found["n"]] == [1]
    with pytest.raises(DataError, match="no result has the metric 'macro_f1'"):
        summaries([old], STANDARD["macro_f1"])


def test_several_folders_are_merged_and_copies_count_once(result: MakeResult, tmp_path: Path) -> None:
    first, second = result(0.5), result(0.6, seed=2)
    write_results(folder(tmp_path / "one/run"), [first])
    write_results(folder(tmp_path / "two/run"), [second])
    write_results(folder(tmp_path / "two/copy"), [first])
    assert read_results([tmp_path / "one", tmp_path / "two"]) == [first, second]


def test_results_that_contradict_each_other_name_both_files(result: MakeResult, tmp_path: Path) -> None:
    for name, accuracy in (("one", 0.5), ("two", 0.6)):
        write_results(folder(tmp_path / name), [result(accuracy)])
    with pytest.raises(DataError) as error:
        read_results([tmp_path])
    for name in ("one", "two"):
        assert str(tmp_path / name / RESULTS) in error.value.message


def test_copies_that_differ_by_rounding_count_once(
    result: MakeResult, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    first, second = result(0.5), result(0.6, seed=2)
    write_results(folder(tmp_path / "one"), [first, second])
    write_results(folder(tmp_path / "two"), [result(0.504), result(0.596, seed=2)])
    assert read_results([tmp_path / "one", tmp_path / "two"]) == [first, second]
    (warning,) = warnings()
    assert warning.startswith("2 results are there twice, but for rounding; the first counts")
    for other in (
        result(0.506),
        result(0.5, ece=0.51),
        replace(first, scores=replace(first.scores, n=51)),
    ):
        write_results(tmp_path / "two", [other])
        with pytest.raises(DataError, match="different results for coop"):
            read_results([tmp_path])


def test_other_prompts_and_other_data_are_other_results(result: MakeResult, tmp_path: Path) -> None:
    found = [result(0.5, template="a {}"), result(0.7, template="one {}"), result(0.9, title="dtd", split="given")]
    for number, one in enumerate(found):
        write_results(folder(tmp_path / str(number)), [one])
    assert read_results([tmp_path]) == found


def test_damaged_lines_are_left_out_and_counted(
    result: MakeResult, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    run = folder(tmp_path / "run")
    write_results(run, [result(0.5), result(0.6, seed=2)])
    with (run / RESULTS).open("ab") as file:
        file.write(b'{"learner": "co\n\xff\xfe\n[1]\n{"seed": NaN}\n')
    folder(tmp_path / "other/results.jsonl")
    assert len(read_results([tmp_path])) == 2
    (warning,) = warnings()
    assert warning.startswith("5 damaged lines of results left out")


def test_a_changed_digit_is_a_damaged_line(
    result: MakeResult, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    run = folder(tmp_path / "run")
    write_results(run, [result(0.5), result(0.625, seed=2)])
    changed = (run / RESULTS).read_text().replace("0.625", "0.725", 1)
    (run / RESULTS).write_text(changed)
    assert [one.seed for one in read_results([tmp_path])] == [1]
    (warning,) = warnings()
    assert "1 damaged line of results left out: " in warning
    assert f"{run / RESULTS}, line 2: it is not what was written: its hash is another" in warning


def test_no_results_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results in"):
        read_results([tmp_path])
    with pytest.raises(DataError, match="no folder"):
        read_results([tmp_path / "nowhere"])


def test_what_cannot_be_written_leaves_what_was_there(
    result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path, [result(0.5)])

    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_results(tmp_path, [result(0.6)])
    assert read_results([tmp_path]) == [result(0.5)]
    assert [path.name for path in tmp_path.iterdir()] == [RESULTS]
