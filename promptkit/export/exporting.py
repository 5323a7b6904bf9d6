"""Export a finished run: write, check what was written against the learner, and only then put it in its place."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from promptkit.data.images import Unreadable, try_image
from promptkit.errors import DataError, ExportError, OutputError, PromptkitError, UnknownNameError
from promptkit.evaluation.evaluate import predict_pixels
from promptkit.export.formats import ABOUT, FORMATS, Format, about
from promptkit.export.readme import readme
from promptkit.files import check_spelling, writing
from promptkit.learner import Learner
from promptkit.prediction.classifier import Classifier
from promptkit.tensors import Batch

CHECKED = 16
"""Pictures that an export is checked on."""
TOLERANCE = 1e-4
"""By how much logits may differ from the learner's, as a share of the largest one."""


@dataclass(frozen=True)
class Check:
    """How what was written compares with the learner."""

    pictures: int
    difference: float
    """The largest of any logit."""
    largest: float
    """Of the learner's logits."""


def export(classifier: Classifier, folder: Path, kind: str, pictures: Sequence[Path]) -> Check:
    """Write a learner to a folder, which must not be there yet or be empty.

    Args:
        classifier: On the CPU, in float32.
        folder: Appears whole or not at all.
        kind: One of FORMATS.
        pictures: Some of these are what the export is checked on.

    Raises:
        UnknownNameError: For another format.
        ExportError: For a learner that can't be exported like this, and when what was written answers differently.
        DataError: When none of the pictures is readable.
        OutputError: When the folder can't be written.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    if classifier.learner.adapts:
        raise ExportError(
            f"{type(classifier.learner).__name__} adapts to the pictures it is asked about, and what is exported does not",
            "promptkit predict and eval show it pictures",
        )
    chosen = FORMATS[kind]
    hint = "choose another FOLDER, or make room"
    check_spelling(folder, hint)
    with writing(folder, hint):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OutputError(f"{folder} exists already", "choose another FOLDER, or delete it")
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
    learner = classifier.learner
    try:
        pixels = _pixels(classifier, pictures)
        expected = predict_pixels(learner, Batch.of(pixels))
        with writing(folder, hint):
            _write(chosen, learner, fresh)
            (fresh / ABOUT).write_text(json.dumps(about(learner), indent=2) + "\n", encoding="utf-8")
            (fresh / "README.md").write_text(readme(kind, learner), encoding="utf-8")
        answers = chosen.read(learner, fresh)
        with torch.no_grad():
            found = torch.cat([answers(pixels[:1]), answers(pixels[1:])] if len(pixels) > 1 else [answers(pixels)])
        check = Check(len(pixels), (found - expected).abs().max().item(), expected.abs().max().item())
        if not check.difference <= TOLERANCE * max(1.0, check.largest):
            raise ExportError(
                f"what was written answers differently: its logits differ by up to {check.difference:.2g}",
                "--format onnx and torch record all that a learner does"
                if kind in ("head", "open_clip")
                else "promptkit predict and promptkit.load use the learner as it is",
            )
        with writing(folder, hint):
            fresh.chmod(0o755)
            fresh.replace(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return check


def _write(chosen: Format, learner: Learner, folder: Path) -> None:
    try:
        chosen.write(learner, folder)
    except (PromptkitError, OSError):
        raise
    except Exception as error:  # torch has no one class for what it can't record
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(
            f"the learner's graph can't be recorded: {lines[0]}",
            "promptkit predict and promptkit.load use the learner as it is; --debug shows where it failed",
        ) from error


def _pixels(classifier: Classifier, pictures: Sequence[Path]) -> Float[Tensor, "B 3 H W"]:
    """Of readable pictures, evenly spread over all."""
    step = max(1, len(pictures) // CHECKED)
    found: list[Tensor] = []
    for path in [*pictures[::step], *pictures]:
        image = try_image(path)
        if not isinstance(image, Unreadable):
            found.append(classifier.preprocess(image))
        if len(found) == min(CHECKED, len(pictures)):
            break
    if not found:
        raise DataError("not one of the pictures to check the export on could be read", "name others with --data PATH")
    return torch.stack(found)
