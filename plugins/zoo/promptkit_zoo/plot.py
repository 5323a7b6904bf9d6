"""PLOT: several prompts for a class, matched with the patches of an image by optimal transport.

Chen et al., PLOT: Prompt Learning with Optimal Transport for Vision-Language Models, ICLR 2023. The
released code (CHENGY12/PLOT) reads a ResNet's patches and stops Sinkhorn's iterations by their mean change over the batch,
which makes a prediction depend on the other pictures: here each picture and class gets all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import ContextPrompts, PromptGenerator
from promptkit.learner import Learner, Recipe
from promptkit.tensors import View


class PLOTPrompts(ContextPrompts):
    """Several sets of learned context vectors, the same for all classes."""

    @dataclass(frozen=True)
    class Options:
        n_prompts: Annotated[int, "prompts for each class", Ge(1)] = 4
        n_ctx: Annotated[int, "context tokens of a prompt; ctx_init sets them where it is given", Ge(1)] = 16
        ctx_init: Annotated[str, "words to start from; without them, noise of deviation 0.02"] = ""


class PLOT(Learner):
    """A class scores the similarity of patches and prompts under the transport plan between them."""

    @dataclass(frozen=True)
    class Options:
        entropy: Annotated[float, "weight of the plan's entropy", Gt(0)] = 0.1
        iterations: Annotated[int, "of Sinkhorn's algorithm", Ge(1)] = 100
        pooled: Annotated[bool, "add the logits of pooled image and mean prompt, as the authors do on ImageNet"] = False

    needs_patches = True

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        assert view.patches is not None
        options = self.options
        text = view.text.expand(len(view.patches), -1, -1, -1)
        similarity = torch.einsum("bpd,bckd->bcpk", view.patches, text).float()
        plan = sinkhorn(1 - similarity, options.entropy, options.iterations)
        logits = self.scene.backbone.logit_scale * (plan * similarity).sum((-2, -1))
        if options.pooled:
            mean = F.normalize(view.text.mean(2), dim=-1).expand(len(logits), -1, -1)
            logits = logits + self.scene.backbone.logit_scale * torch.einsum("bd,bcd->bc", view.image, mean)
        return logits


@torch.no_grad()
def sinkhorn(cost: Float[Tensor, "*R P K"], entropy: float, iterations: int) -> Float[Tensor, "*R P K"]:
    """The plan that moves equal masses of P places to equal masses of K places, without gradients.

    Cuturi, Sinkhorn Distances, NeurIPS 2013. Rows are independent of each other.
    """
    with torch.autocast(cost.device.type, enabled=False):
        kernel = (-cost.float() / entropy).exp()
        rows, columns = cost.shape[-2:]
        v = torch.ones_like(kernel[..., 0, :])
        for _ in range(iterations):
            u = 1 / rows / (kernel @ v[..., None])[..., 0]
            v = 1 / columns / (u[..., None, :] @ kernel)[..., 0, :]
        return u[..., :, None] * kernel * v[..., None, :]


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("plot", PLOTPrompts)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("plot", PLOT)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "plot",
        Recipe(
            summary="PLOT: several prompts for a class, matched with image patches by optimal transport",
            prompts="plot",
            learner="plot",
            settings={"train.epochs": 200, "train.batch_size": 128, "train.lr": 0.002, "data.shots": 16},
            # `setup_cfg` of `train.py`
            datasets={
                "imagenet": {"train.epochs": 50, "learner.pooled": True},
                **{name: {"train.batch_size": 32} for name in ("oxford_flowers", "fgvc_aircraft", "stanford_cars")},
            },
            paper="Chen et al., Prompt Learning with Optimal Transport, ICLR 2023",
        ),
    )
