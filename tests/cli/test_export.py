"""`promptkit export`: what is written is loaded without promptkit, by the code of the README beside it."""

import contextlib
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import promptkit as package
from promptkit.testing import write_images

Command = Callable[..., "Finished"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """Learners after an epoch on the tiny backbone."""
    from rich.console import Console

    from promptkit.build import load_backbone
    from promptkit.config import resolve
    from promptkit.registry import installed
    from promptkit.training.run import Run

    out, registry, backbone = tmp_path_factory.mktemp("runs"), installed(), None
    for recipe in ("coop", "cocoop", "gopro"):
        flags = {"data.path": str(images), "backbone.name": "tiny", "train.epochs": 1, "data.shots": 1}
        config = resolve(registry, recipe, None, [], {**flags, "train.workers": 0})
        backbone = backbone or load_backbone(config.backbone, registry)
        Run(config, out / recipe, registry=registry, backbone=backbone).train(Console(quiet=True), lines=False)
    return out


def run_readme(folder: Path, picture: Image.Image, replacing: dict[str, str]) -> tuple[str, float]:
    """What the code of an export's README prints about a picture."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    for old, new in replacing.items():
        code = code.replace(old, new)
    picture.save(folder / "picture.jpg", quality=95)
    out = io.StringIO()
    before = os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, str(folder), "exec"), {})
    finally:
        os.chdir(before)
    label, _, score = out.getvalue().strip().rpartition(" ")
    return label, float(score)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("recipe", "kind"),
    [("coop", "open_clip"), ("coop", "head"), ("cocoop", "torch"), ("cocoop", "onnx"), ("gopro", "onnx")],
)
def test_its_readme_answers_as_the_learner_does(
    recipe: str, kind: str, runs: Path, promptkit: Command, tmp_path: Path
) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    done = promptkit("export", runs / recipe, "out", "--format", kind, "--classes", "star,moon,red circle")
    assert done.status == 0, done.err
    difference = re.search(r"checked on 16 pictures; the largest difference of a logit is (\S+),", done.out)
    assert difference
    assert float(difference[1]) < 1e-4
    replacing = {}
    if kind == "head":
        assert promptkit("export", runs / recipe, "whole", "--format", "open_clip").status == 0
        replacing = {"local-dir:FOLDER": f"local-dir:{tmp_path / 'whole'}"}
    picture = Image.open(write_images(tmp_path / "one", ["star"], [], 1, size=90) / "star/000.png").crop((0, 0, 90, 67))
    label, score = run_readme(tmp_path / "out", picture, replacing)
    classifier = package.load(runs / recipe, ["star", "moon", "red circle"], device="cpu")
    best = classifier(tmp_path / "out/picture.jpg")[0]
    assert label == best["label"]
    assert score == pytest.approx(best["score"], abs=1e-4)
    about = json.loads((tmp_path / "out/classifier.json").read_text())
    assert about["classes"] == ["star", "moon", "red circle"]


def test_what_cannot_be_exported_is_said(
    runs: Path, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "empty").mkdir()
    for words, message, hint in (
        (["cocoop", "out"], "this learner's text looks at the image", "--format onnx or torch does"),
        (["coop", "full"], "full exists already", "choose another FOLDER"),
        (["coop", "out", "--format", "onxx"], "no format named 'onxx'; did you mean 'onnx'?", "known: head"),
        (["coop", "out", "--data", "empty"], "empty holds no pictures", ".jpg"),
        (["coop", "out", "--classes", "cat"], "two or more classes are needed", "cat,dog"),
    ):
        done = promptkit("export", runs / words[0], *words[1:])
        assert done.status == 2
        assert message in done.err
        assert hint in done.err
    with monkeypatch.context() as patch:
        patch.setattr("promptkit.extras.find_spec", lambda library: None)
        done = promptkit("export", runs / "coop", "out", "--format", "onnx")
    assert "--format onnx needs onnx, onnxscript, onnxruntime" in done.err
    write_bytes = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = promptkit("export", runs / "coop", "out")
    assert done.status == 2
    assert "out can't be written: No space left on device" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]  # nothing half done


def test_a_learner_of_its_own_kind_is_found_out_by_the_check(runs: Path, tmp_path: Path, images: Path) -> None:
    """Its class embeddings are not all that it does, and nothing says so but the figures."""
    from promptkit.export.exporting import export
    from promptkit.learner import Learner

    class Sharpened(Learner):
        def logits(self, view):  # type: ignore[no-untyped-def]
            return 2 * super().logits(view)

    classifier = package.load(runs / "coop", device="cpu")
    classifier.learner.__class__ = Sharpened
    with pytest.raises(package.PromptkitError, match="what was written answers differently"):
        export(classifier, tmp_path / "out", "head", sorted(images.rglob("*.png")))
    assert not list(tmp_path.iterdir())
