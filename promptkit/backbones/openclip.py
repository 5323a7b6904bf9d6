"""open_clip's models as backbones."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.hf_model import HFTextEncoder
from open_clip.model import get_model_preprocess_cfg
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from promptkit.backbones.base import Backbone, ImageSpec, Intermediates, Position, TextBlocks
from promptkit.backbones.cpu_images import (
    BLOCK_BYTES,
    ONE_PASS,
    encode_in_chunks,
    held_at_most,
    keep_freed_memory,
    largest_output,
)
from promptkit.backbones.hf_text import HFPromptEncoder, HFTextTower
from promptkit.backbones.image_tower import ImageTower
from promptkit.backbones.loading import load_model
from promptkit.backbones.on_foot import OpenClipImageBlocks, OpenClipTextBlocks
from promptkit.backbones.passes import HEAP_HOLES
from promptkit.backbones.plain_text import Rows
from promptkit.backbones.prompt_encoder import PromptEncoder
from promptkit.backbones.prompt_tokenizer import PromptTokenizer, Tokenizer
from promptkit.backbones.text_tower import TextTower
from promptkit.settings import BackboneSettings
from promptkit.tensors import ClassTokens, ImageFeatures, ImagePrompts, TextPrompts

NO_CONFIG: Mapping[str, Any] = MappingProxyType({})


def load_openclip(name: str, weights: str) -> "OpenClipBackbone":
    """A frozen open_clip model on the CPU.

    `name` is an architecture ("ViT-B-16" or "ViT-B/16"), "local-dir:PATH" or "hf-hub:ORG/REPO". `weights` is a
    pretrained tag, a file, or "none" for random weights, always the same ones; the two schemas bring their own and
    ignore it, except that "none" allows a local-dir without a weights file. `Backbone.weights` says what was loaded:
    "own weights" where a schema brought them.

    Args:
        name: Of the architecture, or the place of a model.
        weights: To fill it with.

    Raises:
        UnknownNameError: For an architecture or tag that open_clip doesn't know.
        BackboneError: For weights or a tokenizer that can't be had, and a text tower that prompts can't be spliced into.
    """
    model, tokenizer, loaded, config = load_model(name, weights)
    return OpenClipBackbone(model, tokenizer, name, loaded, config)


class OpenClipBackbone(Backbone):
    """Any model of open_clip: CLIP, CustomTextCLIP or CoCa, with open_clip's text transformer or one of Hugging Face.

    A backbone's author makes one of a model of his own, too: whatever open_clip's classes are built of.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, name: str, weights: str, config: Mapping[str, Any] = NO_CONFIG
    ) -> None:
        """Freeze the model.

        Args:
            model: With a `preprocess_cfg` (`open_clip.model.set_model_preprocess_cfg`), which says how pictures come in.
            tokenizer: `tokenizer(texts, context_length=...)` gives ids (texts context_length), as open_clip's do.
            name: What `--backbone` calls it.
            weights: What they are called; "none" for random ones.
            config: What open_clip makes such a model of, the `model_cfg` of an `open_clip_config.json`; an export needs it.

        Raises:
            BackboneError: For a text encoder that takes no embeddings, or is not pooled.
        """
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.eval()
        self.name = name
        self.weights = weights
        self.config = config
        self.text_tower: TextTower | HFTextTower
        self.encoder: PromptEncoder | HFPromptEncoder
        if isinstance(getattr(model, "text", None), HFTextEncoder):
            self.text_tower = HFTextTower(model.text, config.get("text_cfg", {}).get("context_length"))
            self.encoder = HFPromptEncoder(self.text_tower)
        else:
            self.text_tower = TextTower(model)
            self.encoder = PromptEncoder(self.text_tower)
        self.image_tower = ImageTower(model.visual)
        self._largest: int | None = None
        self.image = _image_spec(model)
        self.context_length = self.text_tower.context_length
        self.text_width = self.text_tower.width
        self.text_depth = self.text_tower.depth
        self.joint_width = self.text_tower.joint_width
        self.intermediate_widths = self.image_tower.widths
        self.intermediate_names = self.image_tower.names
        self.prompt_tokenizer = PromptTokenizer(tokenizer, self.context_length)

    def configure(self, settings: BackboneSettings) -> None:
        super().configure(settings)
        self.encoder.memory_bytes = int(settings.memory_gb * 1e9) or None
        self.encoder.checkpoint = settings.checkpoint
        if settings.compile:
            self.text_tower.compile()
            self.image_tower.compile()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights and what else decides the features: activation, heads, how pictures come in.

        Not over the name: the same model from a tag, a file or a folder is the same backbone. Computed once, at about
        2 GB a second.
        """
        heads = [module.num_heads for module in self.model.modules() if hasattr(module, "num_heads")]
        quick_gelu = any(isinstance(module, QuickGELU) for module in self.model.modules())
        digest = hashlib.sha256(repr((heads, quick_gelu, *self.text_tower.traits, self.image)).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(repr((name, tuple(tensor.shape), tensor.dtype)).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def logit_scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp().reshape(())
        return scale

    def encode_image(
        self,
        pixels: Float[Tensor, "B 3 H Wd"],
        prompts: ImagePrompts | Float[Tensor, "J #B M V"] | None = None,
        intermediates: Intermediates | None = None,
        patches: bool = False,
    ) -> ImageFeatures:
        dtype = self.image_dtype
        given = ImagePrompts(prompts) if isinstance(prompts, Tensor) else prompts
        if torch.compiler.is_compiling():  # an export, for any number of images
            return self.image_tower.encode(pixels, given, intermediates, patches)
        gradients = torch.is_grad_enabled() and given is not None
        with torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            if pixels.device.type != "cpu" or gradients or self.settings.compile:
                return self.image_tower.encode(pixels, given, intermediates, patches)
            return encode_in_chunks(
                lambda some, own: self.image_tower.encode(some, own, intermediates, patches),
                pixels,
                given,
                max(1, BLOCK_BYTES // self._image_bytes(pixels.shape)),
            )

    def _image_bytes(self, shape: torch.Size) -> int:
        """What one image takes at most between two layers. The first use on a CPU, which sets its allocator, finds out."""
        if self._largest is None:
            keep_freed_memory()
            self._largest = largest_output(self.model.visual, torch.zeros(1, *shape[1:], device=self.device))
        return max(1, self._largest)

    @property
    def text_blocks(self) -> TextBlocks:
        if isinstance(self.text_tower, HFTextTower):
            return super().text_blocks
        return OpenClipTextBlocks(self.text_tower)

    @property
    def image_blocks(self) -> OpenClipImageBlocks:
        return OpenClipImageBlocks(self.image_tower)

    def image_bytes(self, images: int, device: torch.device) -> int:
        one = self._image_bytes(torch.Size((1, 3, *self.image.size)))
        if device.type == "cpu":
            return held_at_most(images, one)
        return int(images * one * ONE_PASS) // (1 if self.settings.dtype == "float32" else 2)

    def text_passes(
        self, rows: int, per_class: bool, classes: ClassTokens, device: torch.device
    ) -> tuple[int, int, int]:
        if isinstance(self.encoder, HFPromptEncoder):
            return super().text_passes(rows, per_class, classes, device)
        (n_classes, n_ctx), one = classes.context_positions.shape, self.logit_scale.new_zeros(1, 1, 1, 1)
        contexts = Rows(one.expand(rows, n_classes if per_class else 1, n_ctx, self.text_width))
        plan = self.encoder.plan(contexts, classes, True, device)
        # While a block computes, the heap may have holes, and passes are cut for that; it was measured to have few.
        return len(plan.passes), int(plan.work / (HEAP_HOLES if device.type == "cpu" else 1)), plan.kept

    def use_less_memory(self) -> bool:
        return self.encoder.halve_chunks()

    def encode_text(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """See `PromptEncoder`."""
        return self.encoder(prompts, classes)

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str], unit_norm: bool = True) -> Float[Tensor, "N D"]:
        """Captions are class names without a context."""
        texts = self._to_device(self.prompt_tokenizer.captions(captions))
        if not unit_norm:
            return torch.cat([self.model.encode_text(some) for some in torch.split(texts.ids, 256)])
        nothing = self.logit_scale.new_empty(1, 1, 1, 0, self.text_width)
        return self.encoder(TextPrompts(nothing), texts)[0, :, 0]

    @torch.inference_mode(False)  # made during an evaluation, they may still be used in training
    def class_tokens(
        self, names: Sequence[str], n_ctx: int, position: Position = "end", words: str = ""
    ) -> ClassTokens:
        return self._to_device(self.prompt_tokenizer.tokenize_names(names, n_ctx, position, words))

    @torch.no_grad()
    def embed_words(self, words: str) -> Float[Tensor, "M W"]:
        (ids,) = self.prompt_tokenizer.encode([words])
        return self.text_tower.embed(torch.tensor(ids, dtype=torch.long, device=self.device))

    @torch.no_grad()
    def nearest_words(self, vectors: Float[Tensor, "M W"], most: int) -> list[list[tuple[str, float]]]:
        """For each vector, the tokens whose embeddings are nearest, with their Euclidean distances, the nearest first."""
        table = self.text_tower.words
        distances, tokens = torch.cdist(vectors.to(table), table).topk(most, largest=False)
        return [
            [(self.prompt_tokenizer.word(token), distance) for token, distance in zip(*row, strict=True)]
            for row in zip(tokens.tolist(), distances.tolist(), strict=True)
        ]

    def _to_device(self, classes: ClassTokens) -> ClassTokens:
        device = self.device
        return ClassTokens(classes.names, classes.ids.to(device), classes.context_positions.to(device))


def _image_spec(model: nn.Module) -> ImageSpec:
    config = get_model_preprocess_cfg(model)
    size = config["size"]
    return ImageSpec(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mean=tuple(config.get("mean", OPENAI_DATASET_MEAN)),
        std=tuple(config.get("std", OPENAI_DATASET_STD)),
        interpolation=config.get("interpolation", "bicubic"),
        resize_mode=config.get("resize_mode", "shortest"),
    )
