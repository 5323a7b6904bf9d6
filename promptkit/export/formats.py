"""What can be written of a learner, and how what was written is read back to be checked."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

import promptkit
from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.errors import ExportError
from promptkit.export.program import trace
from promptkit.extras import needs
from promptkit.learner import Learner

HEAD, PROGRAM, ONNX, ABOUT = "head.safetensors", "model.pt2", "model.onnx", "classifier.json"
ONE_FILE = 1_500_000_000
"""Bytes. An ONNX file holds less than 2 GB; beyond, its weights lie beside it."""

Answers = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B C"]]


@dataclass(frozen=True)
class Format:
    """`write` puts the files into a folder, `read` makes logits of what lies there."""

    help: str
    write: Callable[[Learner, Path], None]
    read: Callable[[Learner, Path], Answers]


def class_embeddings(learner: Learner) -> Float[Tensor, "D C"]:
    """What image features are multiplied with. Raises ExportError where there is no such thing."""
    if learner.prompts.conditional or learner.prompts.vision() is not None:
        what = "text looks at the image" if learner.prompts.conditional else "image tower has learned prompts"
        raise ExportError(
            f"this learner's {what}, so it has no class embeddings of its own", "--format onnx or torch does"
        )
    with torch.no_grad():
        text = learner.encode_text(None)
        if learner.projector.for_logits:
            text = learner.projector.text(text)
        return text[0].mean(1).T.contiguous()


def about(learner: Learner) -> dict[str, Any]:
    """Names, image spec and scale, as JSON holds them."""
    backbone = learner.scene.backbone
    return {
        "classes": list(learner.classnames),
        "image": asdict(backbone.image),
        "logit_scale": backbone.logit_scale.item(),
        "backbone": backbone.name,
        "weights": backbone.weights,
        "fingerprint": backbone.fingerprint,
        "promptkit": promptkit.__version__,
    }


def _write_head(learner: Learner, folder: Path) -> None:
    (folder / HEAD).write_bytes(save({"classes": class_embeddings(learner).cpu()}))


def _read_head(learner: Learner, folder: Path) -> Answers:
    """With the backbone's own image features, which plain open_clip gives as well."""
    model = _openclip(learner).model
    head, scale = load_file(folder / HEAD)["classes"], json.loads((folder / ABOUT).read_text())["logit_scale"]
    return lambda pixels: scale * F.normalize(model.encode_image(pixels), dim=-1) @ head


def _write_openclip(learner: Learner, folder: Path) -> None:
    backbone = _openclip(learner)
    _write_head(learner, folder)
    image = backbone.image
    spec = {
        "mean": image.mean,
        "std": image.std,
        "interpolation": image.interpolation,
        "resize_mode": image.resize_mode,
    }
    config = {"model_cfg": backbone.config, "preprocess_cfg": spec}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().clone().contiguous() for name, tensor in backbone.model.state_dict().items()}
    (folder / "open_clip_model.safetensors").write_bytes(save(weights))


def _read_openclip(learner: Learner, folder: Path) -> Answers:
    from promptkit.backbones.openclip import load_openclip

    model = load_openclip(f"local-dir:{folder}", "own").model
    head, scale = load_file(folder / HEAD)["classes"], model.logit_scale.exp()
    return lambda pixels: scale * F.normalize(model.encode_image(pixels), dim=-1) @ head


def _openclip(learner: Learner) -> OpenClipBackbone:
    backbone = learner.scene.backbone
    if not isinstance(backbone, OpenClipBackbone) or not backbone.config:
        raise ExportError(f"the backbone {backbone.name!r} is no model of open_clip", "--format onnx or torch does")
    return backbone


def _write_torch(learner: Learner, folder: Path) -> None:
    content = io.BytesIO()  # torch's own writer calls a full disk a RuntimeError
    torch.export.save(trace(learner), content)
    (folder / PROGRAM).write_bytes(content.getbuffer())


def _read_torch(learner: Learner, folder: Path) -> Answers:
    return torch.export.load(folder / PROGRAM).module()


def _write_onnx(learner: Learner, folder: Path) -> None:
    needs("--format onnx", "onnx", "onnxscript", "onnxruntime")
    program = trace(learner)
    size = sum(tensor.nbytes for tensor in learner.scene.backbone.state_dict().values())
    torch.onnx.export(
        program,
        (),
        folder / ONNX,
        input_names=["pixels"],
        output_names=["logits"],
        dynamo=True,
        external_data=size > ONE_FILE,
        verbose=False,
    )


def _read_onnx(learner: Learner, folder: Path) -> Answers:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


FORMATS: Mapping[str, Format] = {
    "head": Format("class embeddings for plain open_clip", _write_head, _read_head),
    "onnx": Format("from pixels to logits, for onnxruntime", _write_onnx, _read_onnx),
    "torch": Format("from pixels to logits, a program of torch.export", _write_torch, _read_torch),
    "open_clip": Format("the model as open_clip loads it, with class embeddings", _write_openclip, _read_openclip),
}
