"""RPO: tokens in both towers that read a picture or a text, change nothing of it, and are compared in pairs.

Lee et al., Read-only Prompt Optimization for Vision-Language Few-shot Learning, ICCV 2023. As `trainers/rpo.py` and
`clip/model.py` of the released code (mlvlab/RPO).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptkit import ConfigError, hookimpl
from promptkit.components import PromptGenerator, Scene, read_templates
from promptkit.learner import Learner, Recipe
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, TextPrompts, View


class RPOPrompts(PromptGenerator):
    """Read-only tokens, which start near the end token and near the class token."""

    @dataclass(frozen=True)
    class Options:
        n_pairs: Annotated[int, "tokens in each tower", Ge(1)] = 24
        template: Annotated[str, "what the text tokens read, with one {} and a full stop"] = "a photo of a {}."

    def __init__(self, options: Any, scene: Scene) -> None:
        """Raises ConfigError for a template that is none or more than one."""
        super().__init__(options, scene)
        (self.template, *more) = read_templates(options.template)
        if more or not self.template.endswith("."):
            raise ConfigError(f"prompts.template={options.template!r} is not one prompt that ends with a full stop")
        backbone = scene.backbone
        ends = backbone.embed_words("<end_of_text>")[-1], backbone.image_blocks.class_token
        self.text_tokens, self.image_tokens = (
            nn.Parameter(end + 0.1 * F.normalize(torch.randn(options.n_pairs, len(end)).to(end), dim=-1))
            for end in ends
        )

    def class_tokens(self, names: Sequence[str]) -> ClassTokens:
        return self.scene.backbone.class_tokens([self.template.format(name)[:-1] for name in names], 0)

    def encode(self, features: ImageFeatures | None, classes: ClassTokens) -> Float[Tensor, "1 C K D"]:
        prompts = TextPrompts(None, read_only=self.text_tokens[None, None])
        return self.scene.backbone.encode_text(prompts, classes)

    def vision(self) -> ImagePrompts:
        return ImagePrompts(self.image_tokens[None, None], read_only=True, keep=True)


class RPO(Learner):
    """The mean over pairs of the scaled cosine of an image token and a text token."""

    needs = {"prompts": RPOPrompts}  # noqa: RUF012

    def logits(self, view: View) -> Float[Tensor, "B C"]:
        assert view.prompts is not None
        image, text = F.normalize(view.prompts, dim=-1), view.text[0]
        return self.scene.backbone.logit_scale * torch.einsum("bkd,ckd->bc", image, text) / text.shape[1]


@hookimpl
def register_prompts(register: Callable[[str, type[PromptGenerator]], None]) -> None:
    register("rpo", RPOPrompts)


@hookimpl
def register_learners(register: Callable[[str, type[Learner]], None]) -> None:
    register("rpo", RPO)


@hookimpl
def register_recipes(register: Callable[[str, Recipe], None]) -> None:
    register(
        "rpo",
        Recipe(
            summary="RPO: read-only tokens in both towers, compared in pairs",
            prompts="rpo",
            learner="rpo",
            # One prompt for all data sets, as in the released code.
            settings={
                "train.epochs": 15,
                "train.batch_size": 4,
                "train.lr": 0.01,
                "data.shots": 16,
                "prompts.template": "a photo of a {}.",
            },
            datasets={"imagenet": {"train.lr": 0.005}},
            paper="Lee et al., Read-only Prompt Optimization for Vision-Language Few-shot Learning, ICCV 2023",
        ),
    )
