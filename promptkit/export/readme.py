"""The README of an export: what the files are, and the code that loads them."""

import open_clip

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.learner import Learner

_PREPARE = '''
def prepare(image):
    """From a PIL picture to pixels (3 H W)."""
    size, mean, std = (about["image"][name] for name in ("size", "mean", "std"))
    image = image.convert("RGB")
    short = min(image.size)
    image = image.resize([size[0] * side // short for side in image.size], Image.Resampling.{resample})
    left, top = (round((side - size[0]) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size[0], top + size[0])), np.float32) / 255
    return ((pixels - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)

'''
_OPEN_CLIP = '''
def prepare(image):
    """From a PIL picture to pixels (3 H W)."""
    return open_clip.image_transform_v2(open_clip.PreprocessCfg(**about["image"]), is_train=False)(image).numpy()

'''

_HEAD = """import json

import open_clip
from PIL import Image
from safetensors.torch import load_file

model, preprocess = open_clip.create_model_from_pretrained({model})
classes, about = load_file("head.safetensors")["classes"], json.load(open("classifier.json"))  # classes: (D C)
features = model.eval().encode_image(preprocess(Image.open("picture.jpg"))[None], normalize=True)
probabilities = (about["logit_scale"] * features @ classes).softmax(-1)[0]
print(about["classes"][probabilities.argmax()], probabilities.max().item())
"""
_ONNX = """import json

import numpy as np
import onnxruntime
{more}from PIL import Image

about = json.load(open("classifier.json"))

{prepare}
session = onnxruntime.InferenceSession("model.onnx")
pixels = np.stack([prepare(Image.open("picture.jpg"))])  # any number of them
logits = session.run(["logits"], {{"pixels": pixels}})[0]
odds = np.exp(logits - logits.max(1, keepdims=True))
probabilities = (odds / odds.sum(1, keepdims=True))[0]
print(about["classes"][probabilities.argmax()], probabilities.max().item())
"""
_TORCH = """import json

import numpy as np
{more}import torch
from PIL import Image

about = json.load(open("classifier.json"))

{prepare}
model = torch.export.load("model.pt2").module()
pixels = torch.from_numpy(np.stack([prepare(Image.open("picture.jpg"))]))  # any number of them
probabilities = model(pixels).softmax(-1)[0]
print(about["classes"][probabilities.argmax()], probabilities.max().item())
"""
_FILES = {
    "head": '`head.safetensors` holds the class embeddings, "classes" (D, C), of unit norm or shorter.',
    "onnx": "`model.onnx` takes `pixels` (B, 3, H, W), float32, and gives `logits` (B, C).",
    "torch": "`model.pt2` takes pixels (B, 3, H, W), float32, and gives logits (B, C).",
    "open_clip": "`open_clip_model.safetensors` and `open_clip_config.json` are the model; `head.safetensors` holds the "
    'class embeddings, "classes" (D, C).',
}
_NEEDS = {
    "head": "open_clip",
    "onnx": "onnxruntime, numpy and Pillow",
    "torch": "torch, numpy and Pillow",
    "open_clip": "open_clip",
}


def readme(kind: str, learner: Learner) -> str:
    """In Markdown. Its code runs in the folder, on a picture.jpg there."""
    backbone = learner.scene.backbone
    image = backbone.image
    plain = image.resize_mode == "shortest" and image.size[0] == image.size[1]
    prepare = _PREPARE.format(resample=image.interpolation.upper()) if plain else _OPEN_CLIP
    more = "" if plain else "import open_clip\n"
    match kind:
        case "head":
            assert isinstance(backbone, OpenClipBackbone)
            code = _HEAD.format(model=_model(backbone))
        case "open_clip":
            code = _HEAD.format(model='"local-dir:."')
        case "onnx":
            code = _ONNX.format(prepare=prepare, more=more)
        case _:
            code = _TORCH.format(prepare=prepare, more=more)
    words = [
        "# A picture classifier",
        "",
        f"{len(learner.classnames)} classes, on the backbone {backbone.name} ({backbone.weights}). Written by promptkit "
        f"export --format {kind}; needs {_NEEDS[kind]}.",
        "",
        f"{_FILES[kind]} `classifier.json` holds the class names in the order of C, how pictures are prepared, and the "
        "scale of the logits.",
        "",
        "```python",
        code.rstrip(),
        "```",
    ]
    if "FOLDER" in code:
        words += ["", "FOLDER is what `promptkit export RUN FOLDER --format open_clip` writes."]
    return "\n".join(words) + "\n"


def _model(backbone: OpenClipBackbone) -> str:
    """The arguments that make open_clip load the backbone."""
    if ":" in backbone.name:
        return repr(backbone.name)
    if backbone.name.replace("/", "-") not in open_clip.list_models():
        return '"local-dir:FOLDER"'
    quick_gelu = ", force_quick_gelu=True" if backbone.config.get("quick_gelu") else ""
    return f'"{backbone.name}", pretrained="{backbone.weights}"{quick_gelu}'
