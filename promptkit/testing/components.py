"""Checks of options, views and backbones. Each returns, or raises Defect with one sentence that says what to do."""

import pickle
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from torch.nn import functional as F

from promptkit.backbones.base import Backbone, Intermediates
from promptkit.contract import Defect, check_views
from promptkit.errors import BackboneError, ConfigError
from promptkit.settings import OptionField, option_fields
from promptkit.tensors import TextPrompts
from promptkit.testing.specimen import CLASSES, Specimen, close, image, stir


def check_options(specimen: Specimen) -> None:
    """Options are a frozen dataclass; each has a help text, a default, and a type that the command line can set."""
    for slot, component in specimen.components.items():
        options = component.Options  # type: ignore[attr-defined]
        if not isinstance(options, type) or not is_dataclass(options):
            raise Defect(f"{component.__name__}.Options is no dataclass: decorate it with @dataclass(frozen=True)")
        if not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise Defect(f"{component.__name__}.Options can be changed: decorate it with @dataclass(frozen=True)")
        for option in option_fields(options):
            _check_option(f"{slot}.{option.name}", option)


def _check_option(name: str, option: OptionField) -> None:
    if not _settable(option.kind):
        raise Defect(
            f"the command line can't set {name}, which is {option.type_name}: make it str, int, float, bool, a Literal, or "
            "one of them | None"
        )
    if not option.help:
        raise Defect(f'{name} lacks help: write it as Annotated[{option.type_name}, "what it does"]')
    try:
        parsed = option.parse("none" if option.default is None else option.default, name)
    except ConfigError:
        parsed = object()
    if parsed != option.default:
        raise Defect(f"{name} has the default {option.default!r}, which is no {option.type_name}: give it one that is")


def _settable(kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return all(isinstance(choice, (str, int, bool)) for choice in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return all(part is NoneType or _settable(part) for part in get_args(kind))
    return kind in (str, int, float, bool)


def check_views_contract(specimen: Specimen) -> None:
    """Views have their names and shapes, survive pickling, and draw from nothing but the generator handed to them."""
    views = specimen.views
    if "image" not in views.names:
        raise Defect(f'views makes {", ".join(views.names)} and no "image": name one of them "image"')
    shown = image(1)
    made = check_views(views, shown)
    stir()
    again = views(shown, np.random.default_rng(1))
    if any(not np.array_equal(made[name], again[name]) for name in made):
        raise Defect("views ignores its generator: draw every random number from the `rng` handed to it")
    try:
        copied = pickle.loads(pickle.dumps(views))
    except Exception as error:
        raise Defect(
            f"views doesn't pickle ({error}): hold no lambda, open file or local function, since data workers need a copy"
        ) from error
    if any(not np.array_equal(made[name], view) for name, view in copied(shown, np.random.default_rng(1)).items()):
        raise Defect("a pickled copy of views gives other pictures: keep all of its settings through pickling")


def check_frozen(specimen: Specimen) -> None:
    """A backbone is in evaluation mode, and none of its parameters takes a gradient."""
    backbone = specimen.backbone
    backbone.train()
    if any(module.training for module in backbone.modules()):
        raise Defect("the backbone can be put in training mode: call self.eval() at the end of __init__")
    taking = [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]
    if taking:
        raise Defect(f"the backbone's {taking[0]} takes gradients: call requires_grad_(False) on the model")
    if backbone.fingerprint != backbone.fingerprint or not backbone.fingerprint:
        raise Defect("the backbone's fingerprint is empty or changes: hash its weights")


def check_features(specimen: Specimen) -> None:
    """Features of both towers have the joint width and unit norm; intermediates have the widths that are announced."""
    backbone = specimen.backbone
    pixels = _pixels(backbone)
    features = backbone.encode_image(pixels, intermediates=Intermediates(lambda tokens: tokens.mean(1)))
    texts = backbone.encode_captions(["a photo of a cat.", "a sketch."])
    for what, found, rows in (("image features", features.pooled, len(pixels)), ("caption features", texts, 2)):
        if tuple(found.shape) != (rows, backbone.joint_width):
            raise Defect(
                f"{what} are {tuple(found.shape)}: make them ({rows}, {backbone.joint_width}), the joint width"
            )
        if not close(found.norm(dim=-1), torch.ones(rows)):
            raise Defect(f"{what} have no unit norm: divide them by their norm")
    own = backbone.encode_captions(["a photo of a cat.", "a sketch."], unit_norm=False)
    if not close(F.normalize(own, dim=-1), texts):
        raise Defect(
            "caption features with unit_norm=False differ in more than their norm: leave out the division alone"
        )
    widths = tuple(intermediate.shape[-1] for intermediate in features.intermediates)
    if widths != backbone.intermediate_widths:
        raise Defect(
            f"read blocks are {widths} wide, but `intermediate_widths` says {backbone.intermediate_widths}: make them agree"
        )


def check_encoding(specimen: Specimen) -> None:
    """Words put in as context vectors give the features of the same words read plainly."""
    backbone = specimen.backbone
    words = backbone.embed_words("a photo of a")
    classes = backbone.class_tokens(CLASSES, len(words))
    tokenized = backbone.encode_text(TextPrompts(words[None, None, None]), classes)
    if tokenized.shape != (1, len(CLASSES), 1, backbone.joint_width):
        expected = f"(1, {len(CLASSES)}, 1, {backbone.joint_width})"
        raise Defect(f"encode_text gives {tuple(tokenized.shape)}: make it (#B C K D), here {expected}")
    plain = backbone.encode_captions([f"a photo of a {name}." for name in CLASSES])
    if not close(tokenized[0, :, 0], plain):
        raise Defect(
            "prompt encoding differs from plain encoding of the same words: splice contexts in where class_tokens leaves "
            "places, and read the same token"
        )


def check_prompts_matter(specimen: Specimen) -> None:
    """Other contexts give other text features, and gradients reach them; so do vision prompts where the tower takes them."""
    backbone = specimen.backbone
    generator = torch.Generator().manual_seed(0)
    classes = backbone.class_tokens(CLASSES, 3)
    context = (0.1 * torch.randn(2, 1, 1, 3, backbone.text_width, generator=generator)).requires_grad_()
    text = backbone.encode_text(TextPrompts(context), classes)
    if len(text) != 2 or close(text[0], text[1]):
        raise Defect("other contexts change no text feature: put `context` in the open places of the class tokens")
    _reached("contexts", context, text)
    pixels = _pixels(backbone)
    shape = 1, 1, 2, backbone.intermediate_widths[0]
    vision = (0.1 * torch.randn(*shape, generator=generator)).requires_grad_()
    try:
        image = backbone.encode_image(pixels, vision).pooled
    except BackboneError:
        return  # a tower may refuse vision prompts, as long as it says so
    if close(image, backbone.encode_image(pixels).pooled):
        raise Defect(
            "vision prompts change no image feature: insert them, or raise BackboneError where the tower can't"
        )
    _reached("vision prompts", vision, image)


def _reached(what: str, prompts: torch.Tensor, features: torch.Tensor) -> None:
    target = F.normalize(torch.ones_like(features), dim=-1)
    loss = (features - target).square().sum()
    if not loss.requires_grad or torch.autograd.grad(loss, prompts, allow_unused=True)[0] is None:
        raise Defect(f"no gradient reaches {what} through the backbone: freeze weights, not the forward pass")


def _pixels(backbone: Backbone) -> torch.Tensor:
    height, width = backbone.image.size
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
