"""`promptkit report`, `explain` and `figure`: what is counted is right, and the page works in a browser."""

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import promptkit as package
from promptkit.experiments.results import write_results
from promptkit.report.answers import Answers, Share, confused_pairs, confusion, disagreements, reliability, worst
from promptkit.runs.records import About

Command = Callable[..., "Finished"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, images: Path) -> dict[str, Path]:
    """CoOp and GOPro after two epochs on the tiny backbone."""
    from rich.console import Console

    from promptkit.build import load_backbone
    from promptkit.config import resolve
    from promptkit.registry import installed
    from promptkit.training.run import Run

    out, registry, backbone = tmp_path_factory.mktemp("runs"), installed(), None
    for recipe in ("coop", "gopro"):
        flags = {"data.path": str(images), "backbone.name": "tiny", "train.epochs": 2, "data.shots": 1}
        config = resolve(registry, recipe, None, [], {**flags, "train.workers": 0, "train.lr": 0.01})
        backbone = backbone or load_backbone(config.backbone, registry)
        with pytest.MonkeyPatch.context() as typed:
            typed.setattr(sys, "argv", ["/bin/promptkit", "train", recipe, "--data", "my pictures"])
            Run(config, out / recipe, registry=registry, backbone=backbone).train(Console(quiet=True), lines=False)
    return {recipe: out / recipe for recipe in ("coop", "gopro")}


@pytest.fixture(scope="module")
def page(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both."""
    from promptkit.report.making import make_page, runs_subject
    from promptkit.settings import EvalSettings

    path = tmp_path_factory.mktemp("report") / "report.html"
    subject = runs_subject(list(runs.values()), EvalSettings(split="all", workers=0), {}, anew=True)
    wide = f"<table><tr>{'<td>a cell of a bench</td>' * 14}</tr></table>"
    subject = replace(subject, tables=wide, statistics=wide)
    path.write_text(make_page(subject, {}, "cpu"), encoding="utf-8")
    return path


def test_the_page_shows_what_the_runs_did(page: Path, runs: dict[str, Path]) -> None:
    text = page.read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    for heading in ("accuracy", "classes", "confusion", "pictures", "calibration", "learning", "learned", "settings"):
        assert f'<h2 id="{heading}">' in text
    for name in ("Learning curves", "Accuracy by domain", "Confusion matrix", "Reliability diagram"):
        assert f'aria-label="{name}"' in text
    assert "64 pictures of" in text
    assert "<td>train.lr</td><td>0.002</td><td>0.01</td>" in text
    assert "Trained by <code>promptkit train coop --data &#39;my pictures&#39;</code>." in text
    assert f"made with clip-promptkit {package.__version__}" in text
    assert "The map is made by principal components" in text
    assert "#000000" not in re.sub(
        'base64,[^"]*', "", text
    )  # what is drawn follows the page's colours, in the dark too
    assert ">consistency<" in text  # a term of GOPro's
    assert 'alt="the view augmix"' in text
    assert len(re.findall(r'<figure data-kind="worst errors" data-run="coop"', text)) > 3
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_it_works_in_a_browser(width: int, scheme: str, page: Path, browser: Any) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    errors: list[str] = []
    asked: list[str] = []
    view.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('.gallery figure')].filter(one => !one.hidden).map(one => one.dataset)"
    assert {one["kind"] for one in view.evaluate(shown)} == {"worst errors"}
    view.select_option("#run", "gopro")
    view.select_option("#kind", "at random")
    view.select_option("#domain", "photo")
    view.select_option("#label", "star")
    kept = view.evaluate(shown)
    assert kept == [{"kind": "at random", "run": "gopro", "domain": "photo", "label": "star"}] * len(kept)
    count = f"{len(kept)} picture{'' if len(kept) == 1 else 's'}"
    assert view.inner_text("#count") == f"{count}: at random, gopro, photo, star"
    view.press("#label", "Home")
    assert view.inner_text("#count").endswith(": at random, gopro, photo")
    view.focus("[aria-label=Tables]")
    if width == 360:  # where it is wider than the page
        view.keyboard.press("ArrowRight")
        view.wait_for_function("document.activeElement.scrollLeft > 0")
    assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    view.focus("#by-class th:nth-child(3) button")
    view.keyboard.press("Enter")
    values = view.evaluate(
        "[...document.querySelectorAll('#by-class tbody tr')].map(row => +row.cells[2].dataset.value)"
    )
    assert values == sorted(values)
    view.keyboard.press("Enter")
    values = view.evaluate(
        "[...document.querySelectorAll('#by-class tbody tr')].map(row => +row.cells[2].dataset.value)"
    )
    assert values == sorted(values, reverse=True)
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert errors == []
    view.close()


@pytest.mark.filterwarnings("ignore")
def test_it_prints(page: Path, browser: Any) -> None:
    view = browser.new_page(viewport={"width": 718, "height": 1000}, color_scheme="dark")  # A4 less its margins
    view.goto(page.as_uri())
    view.evaluate("addEventListener('beforeprint', () => document.title = document.querySelectorAll('[open]').length)")
    assert view.pdf(format="A4").startswith(b"%PDF")
    assert view.title() == "1"  # what is folded away can't be unfolded on paper
    assert view.evaluate("document.querySelectorAll('[open]').length") == 0
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not any(view.is_visible(one) for one in ("nav", "#kind", "#run"))
    assert view.inner_text("#count").endswith("pictures: worst errors")
    headings = view.query_selector_all("h2")
    assert len(headings) == 9
    assert all(heading.is_visible() for heading in headings)
    overflowing = (
        "[...document.querySelectorAll('main *')].filter(one => one.getBoundingClientRect().right > 719).length"
    )
    assert view.evaluate(overflowing) == 0
    view.close()


def test_the_map_is_umaps_where_it_is_installed(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for umap-learn, which takes a compiler along."""
    from promptkit.prediction.classifier import open_classifier
    from promptkit.report.insight import Seen, feature_map
    from promptkit.tensors import ImageFeatures

    class Umap:
        def __init__(self, **options: Any) -> None:
            assert options == {"n_neighbors": 15, "metric": "cosine", "random_state": 0, "n_jobs": 1}

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            assert points.shape == (20 + 4, 24)
            return points[:, :2]

    module = ModuleType("umap")
    module.UMAP = Umap  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    learner = open_classifier(runs["coop"], device="cpu").learner
    for pictures, method in ((20, "UMAP"), (15, "principal components")):
        features = ImageFeatures(torch.nn.functional.normalize(torch.randn(pictures, 24), dim=-1))
        found = feature_map(learner, Seen(list(range(pictures)), features, features))
        assert found.method.startswith(method)
        assert found.images.shape == (pictures, 2)
        assert found.texts.shape == (4, 2)


def test_the_command_evaluates_what_has_no_record(promptkit: Command, runs: dict[str, Path], tmp_path: Path) -> None:
    done = promptkit("report", *runs.values(), "--workers", 0)
    assert done.status == 0, done.err
    assert re.search(r"report: report.html \(\d\.\d MB\); open it in a browser", done.out)
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["nowhere"], "nowhere holds no run"),
        (["empty"], "no results in empty"),
        ([runs["coop"], "--out", "no/report.html"], "no/report.html can't be written"),
        ([runs["coop"], "--data", "gone"], "no folder or manifest gone"),
    ):
        done = promptkit("report", *words)
        assert done.status == 2
        assert message in done.err
        assert "Traceback" not in done.err


def test_explain_names_words_and_draws_patches(
    promptkit: Command, runs: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    done = promptkit("explain", runs["gopro"])
    assert done.status == 0, done.err
    firsts = [re.split(r"  +", line.strip())[1].split(" ")[0] for line in done.out.splitlines()[1:]]
    assert firsts == ["a", "photo", "of", "a"]  # it starts there, and two epochs lead nowhere
    done = promptkit("explain", runs["coop"], "--picture", images / "photo/star/000.png", "--out", "heat.png")
    assert "heat.png shows where, over 4 x 4 patches" in done.out, done.err
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == (448, 448)
    assert promptkit("explain", runs["coop"], "--picture", "gone.png").status == 2


def test_figures_are_drawn_of_results(promptkit: Command, result: Any, tmp_path: Path) -> None:
    runs = [(learner, seed) for learner in ("coop", "gopro") for seed in (1, 2)]
    for learner, seed in runs:
        about = {"learner": learner, "seed": seed}
        several = [result(0.5 + 0.01 * seed, classes=half, **about) for half in ("base", "new")]
        several += [
            result(
                0.3 + 0.1 * shots, protocol="few-shot", classes="all", dataset=name, title=name, shots=shots, **about
            )
            for shots in (1, 2, 4)
            for name in ("dtd", "pets")
        ]
        several += [
            result(0.6, protocol="leave-one-domain-out", classes="all", domain=name, **about)
            for name in ("art", "photo")
        ]
        (tmp_path / f"results/{learner}-{seed}").mkdir(parents=True)
        write_results(tmp_path / f"results/{learner}-{seed}", several)
    for kind, words in (
        ("few-shot", {"average", "dtd", "pets", "coop", "gopro"}),
        ("base-new", {"base", "new", "DTD"}),
        ("domains", {"art", "photo", "mean"}),
        ("ablation", {"base", "new", "gopro", "accuracy, %, less that of coop"}),
    ):
        done = promptkit("figure", "results", "--kind", kind, "--against", "coop", "--out", f"{kind}.svg")
        assert done.status == 0, done.err
        drawn = {text.text for text in ET.parse(tmp_path / f"{kind}.svg").iter("{http://www.w3.org/2000/svg}text")}
        assert words <= drawn
    for suffix, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert promptkit("figure", "results", "--kind", "few-shot", "--out", f"a.{suffix}").status == 0
        assert (tmp_path / f"a.{suffix}").read_bytes().startswith(start)
    for words, message in (
        (["--kind", "pie"], "no kind of figure named 'pie'"),
        (["--kind", "ablation"], "say which with --against LEARNER"),
        (["--kind", "ablation", "--against", "cop"], "no learner to compare with named 'cop'; did you mean 'coop'?"),
        (["--kind", "few-shot", "--out", "a.gif"], "no format named '.gif'"),
        (["--kind", "calibration"], "the runs have kept no answers"),
    ):
        done = promptkit("figure", "results", *words)
        assert done.status == 2
        assert message in done.err


def made_up(run: str, label: list[int], best: list[int], confidence: list[float]) -> Answers:
    about = About("data", "test", "all", "/data", ("a", "b", "c"), "", {})
    paths = tuple(f"{n}.png" for n in range(len(label)))
    likeliest = np.array([[place, (place + 1) % 3] for place in best])
    probability = np.array([[one, 1 - one] for one in confidence])
    domain = np.array(["x"] * len(label), object)
    return Answers(run, about, about.classnames, paths, domain, np.array(label), likeliest, probability)


def test_what_is_counted_is_right() -> None:
    one = made_up("one", [0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 0, 2], [0.9, 0.6, 0.8, 0.95, 0.5, 0.7])
    other = made_up("other", [0, 0, 1, 2, 2, 2], [0, 0, 1, 1, 0, 2], [0.9] * 6)
    assert confusion(one).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert confused_pairs(one) == [("c", "a", 2, pytest.approx(2 / 3)), ("a", "b", 1, 0.5)]
    assert worst(one, 2).tolist() == [3, 1]
    assert disagreements([one, other], 5) == [(1, 1), (3, 3)]  # where one of them is right first
    _, accuracy, count, error = reliability([one])
    assert count.sum() == 6
    by_hand = sum(abs(c - r) for c, r in zip(one.confidence, one.right, strict=True)) / 6
    assert error == pytest.approx(by_hand)  # each in a bin of its own
    assert np.average(accuracy, weights=count) == pytest.approx(0.5)
    share = Share.of(np.array([True] * 8 + [False] * 2))
    assert (share.low, share.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson's, by hand
