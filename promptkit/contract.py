"""What the components of a learner owe each other: shapes, loss terms and gradients.

`promptkit check` looks at them on the tiny backbone, and every run before and after its first step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptkit.components import ContextPrompts, Views
from promptkit.learner import Learner
from promptkit.tensors import Batch, ImagePrompts, TextPrompts


class Defect(Exception):  # noqa: N818
    """A broken contract, in one sentence that says what to do. `slot` says whose it is, where that is known."""

    def __init__(self, message: str, slot: str = "") -> None:
        super().__init__(message)
        self.slot = slot


def check_shapes(learner: Learner, pixels: Tensor) -> None:
    """What components hand on has its shape.

    Args:
        learner: In either mode; its random numbers are drawn as it does.
        pixels: (B 3 H W), of any content.

    Raises:
        Defect: Before the next component is handed what is wrong.
    """
    backbone, prompts = learner.scene.backbone, learner.prompts
    n, classes, width = len(pixels), len(learner.classnames), backbone.joint_width
    vision = prompts.vision()
    tokens = vision.tokens if isinstance(vision, ImagePrompts) else vision
    if tokens is not None:
        _shape("prompts.vision()", tokens, "J #B M V", J=None, B=(1, n), M=None, V=backbone.intermediate_widths[0])
    features = learner.image_features(Batch.of(pixels))
    asked = prompts.class_tokens(learner.classnames)
    places = asked.context_positions.shape[1]
    if isinstance(prompts, ContextPrompts):
        said = prompts.text(features)
        if not isinstance(said, TextPrompts):
            raise Defect(f"prompts.text() returns {type(said).__name__}: return a TextPrompts", "prompts")
        sizes: dict[str, Any] = {"B": (1, n), "C": (1, classes), "K": None, "M": places, "W": backbone.text_width}
        if said.context is not None:
            _shape("the context of prompts.text()", said.context, "#B #C K M W", **sizes)
        if said.deep is not None:
            _shape("deep of prompts.text()", said.deep, "J #C M W", J=None, **sizes)
        if said.read_only is not None:
            _shape("read_only of prompts.text()", said.read_only, "#B #C Q W", Q=None, **sizes)
        own = [len(given) for given in (said.context, said.read_only) if given is not None]
        if max(own, default=1) > 1 and not prompts.conditional:
            raise Defect(
                "prompts.text() gives a context for each image: set `conditional = True` on the class", "prompts"
            )
    text = prompts.encode(features, asked)
    _shape("prompts.encode()", text, "#B C K D", B=(1, n), C=classes, K=None, D=width)
    if type(learner).view is Learner.view:  # one that makes its views otherwise may use them otherwise
        image, projected = learner.projector.image(features.pooled), learner.projector.text(text)
        _shape("projector.image()", image, "B E", B=n, E=None)
        _shape("projector.text()", projected, "#B C K E", B=len(text), C=classes, K=text.shape[2], E=image.shape[1])
    _shape("learner.logits()", learner.logits(learner.view(features, text)), "B C", B=n, C=classes)


def _shape(what: str, tensor: Any, letters: str, **sizes: Any) -> None:
    """Raise Defect unless a tensor's sizes are the ones given: a number, a choice of numbers, or None for any."""
    axes, slot = letters.split(), what.split("of ")[-1].partition(".")[0]
    if not isinstance(tensor, Tensor):
        raise Defect(f"{what} is a {type(tensor).__name__}: return a tensor ({letters})", slot)
    allowed = [sizes[axis.lstrip("#")] for axis in axes]
    fits = len(tensor.shape) == len(axes) and all(
        want is None or got == want or (isinstance(want, tuple) and got in want)
        for got, want in zip(tensor.shape, allowed, strict=True)
    )
    if not fits:
        said = {axis: "any" if want is None else want for axis, want in zip(axes, allowed, strict=True)}
        expected = ", ".join(
            f"{axis}={' or '.join(map(str, want)) if isinstance(want, tuple) else want}" for axis, want in said.items()
        )
        raise Defect(f"{what} is {tuple(tensor.shape)}: make it ({letters}) with {expected}", slot)


def check_views(views: Views, image: np.ndarray) -> dict[str, np.ndarray]:
    """Views have the names, types and shapes that they announce.

    Args:
        views: As they are built.
        image: (H W 3), uint8.

    Returns:
        What they make of it, with a generator of seed 1.

    Raises:
        Defect.
    """
    height, width = views.image.size
    made = dict(views(image, np.random.default_rng(1)))
    if set(made) != set(views.names):
        announced = ", ".join(views.names)
        raise Defect(f"views returns {', '.join(made)}, but `names` says {announced}: make them agree", "views")
    for name, view in made.items():
        if not isinstance(view, np.ndarray) or view.dtype != np.float32:
            kind = view.dtype if isinstance(view, np.ndarray) else type(view).__name__
            raise Defect(f"the view {name!r} is {kind}: return a numpy array of float32", "views")
        if view.shape != (3, height, width):
            raise Defect(f"the view {name!r} is {view.shape}: return (3, {height}, {width}), channels first", "views")
        if not np.isfinite(view).all():
            raise Defect(
                f"the view {name!r} holds values that are not finite: normalise by the spec's mean and std", "views"
            )
    return made


def check_state(state: Mapping[str, Tensor], built: Mapping[str, Tensor]) -> None:
    """What was learned fits into a learner as it is built. Raises Defect."""
    wrong = sorted(state.keys() ^ built.keys())
    wrong += [name for name, tensor in built.items() if name in state and state[name].shape != tensor.shape]
    if wrong:
        raise Defect(
            f"{wrong[0]} changes its name or shape in training: make every parameter and buffer in __init__",
            wrong[0].partition(".")[0],
        )


def check_terms(terms: Any) -> None:
    """A loss gives named scalars. Raises Defect."""
    if not isinstance(terms, Mapping) or not terms:
        raise Defect("the loss returns no terms: return a dict such as {'ce': tensor}", "loss")
    for name, term in terms.items():
        if not isinstance(term, Tensor):
            raise Defect(f"the loss term {name!r} is a {type(term).__name__}: return a scalar tensor", "loss")
        if term.ndim:
            shape = tuple(term.shape)
            raise Defect(f"the loss term {name!r} has shape {shape}: reduce it to a scalar, such as by mean()", "loss")


def check_differentiable(terms: Mapping[str, Tensor]) -> None:
    """Some term depends on what is learned. Raises Defect."""
    if not any(term.requires_grad for term in terms.values()):
        raise Defect(
            "no gradient reaches any parameter: compute the loss from them, outside torch.no_grad() and detach()"
        )


def unreached(learner: Learner) -> list[str]:
    """The parameters that the backward pass has not reached, though they take gradients. A gradient of 0 reaches."""
    return [
        name for name, parameter in learner.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]


@torch.no_grad()
def try_out(learner: Learner) -> None:
    """`check_shapes` on two made-up images. The learner, its random numbers and its mode are afterwards as they were.

    Raises Defect.
    """
    device, training = learner.scene.backbone.device, learner.training
    pixels = torch.zeros(2, 3, *learner.scene.backbone.image.size, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        check_shapes(learner.eval(), pixels)
    learner.train(training)
