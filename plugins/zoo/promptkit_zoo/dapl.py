"""DAPL: contexts of which one half is every domain's own; the target's is learned from pictures without labels.

Ge et al., Domain Adaptation via Prompt Learning, TNNLS 2023. As `trainers/dapl.py` of the released code
(LeapLabTHU/DAPrompt).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import hookimpl
from promptkit.components import Loss, PromptGenerator, Scene
from promptkit.learner import Learner, Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, Outputs, TextPrompts, View


class DAPLPrompts(PromptGenerator):
    """`[ctx][domain] name , a sketch image.` for every domain of the training pictures, and last for the target."""

    @dataclass(frozen=True)
    class Options:
        n_ctx: Annotated[int, "context tokens that the domains share", Ge(1)] = 16
        n_domain: Annotated[int, "context tokens of each domain", Ge(1)] = 16
        class_specific: Annotated[bool, "shared tokens of its own for each class"] = False
        target: Annotated[str, "what the target is called in its prompt"] = "target"

    def __init__(self, options: Any, scene: Scene) -> None:
        super().__init__(options, scene)
        self.domains = (*(scene.domains or ("source",)), options.target)
        width, rows = scene.backbone.text_width, len(scene.classnames) if options.class_specific else 1
        self.ctx = nn.Parameter(0.02 * torch.randn(rows, options.n_ctx, width))
        self.domain = nn.Parameter(0.02 * torch.randn(len(self.domains), options.n_domain, width))

    @property
    def class_specific(self) -> bool:
        return bool(self.options.class_specific)

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        """Those of the first domain, then of the next, up to the target."""
        said = [f"{name} , a {domain} image." for domain in self.domains for name in names]
        return self.scene.backbone.class_tokens(said, self.options.n_ctx + self.options.n_domain)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C K D"]:
        n = len(classes.names) // len(self.domains)
        shared = self.ctx.expand(len(self.domains), n, -1, -1)
        own = self.domain[:, None].expand(-1, n, -1, -1)
        context = torch.cat([shared, own], 2).flatten(0, 1)[None, :, None]
        text = self.scene.backbone.encode_text(TextPrompts(context), classes)[:, :, 0]
        return torch.unflatten(text, 1, (len(self.domains), n)).transpose(1, 2)


class DAPLLoss(Loss):
    """Cross-entropy of labelled pictures under their domain, and of the target's with what zero-shot CLIP is sure of."""

    unlabelled = True
    needs: ClassVar[Mapping[str, type]] = {"prompts": DAPLPrompts}

    @dataclass(frozen=True)
    class Options:
        weight: Annotated[float, "weight of the pictures without labels", Ge(0)] = 1.0
        temperature: Annotated[float, "of zero-shot CLIP's answers", Gt(0)] = 1.0
        sure: Annotated[float, "probability from which its answer is taken for a label", Ge(0), Le(1)] = 0.5

    def templates(self) -> Sequence[str]:
        return ["a photo of a {}."]

    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        view = outputs.views["image"]
        logits = self.scene.backbone.logit_scale * torch.einsum("bd,ckd->bkc", view.image, view.text[0])
        own = logits[torch.arange(len(logits), device=logits.device), outputs.domain.clamp(min=0)]
        terms = {"ce": F.cross_entropy(own, outputs.label)}
        if outputs.unlabelled is not None:
            teacher = outputs.unlabelled.teacher
            assert teacher is not None
            probability, label = (teacher.logits / self.options.temperature).softmax(-1).max(-1)
            sure = (probability >= self.options.sure).float()
            each = F.cross_entropy(outputs.unlabelled.logits, label, reduction="none")
            terms["target"] = self.options.weight * (each * sure).sum() / sure.sum().clamp(min=1)
        return terms


class DAPL(Learner):
    """Takes every picture that it is asked about for one of the target."""

    needs: ClassVar[Mapping[str, type]] = {"prompts": DAPLPrompts}

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        return self.scene.backbone.logit_scale * view.image @ view.text[0, :, -1].T


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("dapl", DAPLPrompts)


@hookimpl
def register_losses(register: Callable[[str, type[Loss]], None]) -> None:
    register("dapl", DAPLLoss)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("dapl", DAPL)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "dapl",
        Recipe(
            summary="DAPL: contexts of each domain, the target's learned from pictures without labels",
            prompts="dapl",
            loss="dapl",
            learner="dapl",
            settings={"train.epochs": 25, "train.batch_size": 32, "train.lr": 0.003},
            paper="Ge et al., Domain Adaptation via Prompt Learning, TNNLS 2023",
        ),
    )
