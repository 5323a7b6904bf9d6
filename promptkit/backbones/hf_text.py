"""Text towers from Hugging Face, as open_clip builds them for `hf_model_name` (BiomedCLIP's kind)."""

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from promptkit.backbones.passes import default_budget
from promptkit.backbones.text_tower import check_context
from promptkit.errors import BackboneError
from promptkit.tensors import ClassTokens, TextPrompts


class HFTextTower:
    """One face for `open_clip.hf_model.HFTextEncoder`: embeddings in, pooled by the tower's own pooler.

    It reads its source at every call, so moving or casting the model needs no word to it.
    """

    def __init__(self, source: Any, context_length: int | None) -> None:
        """`context_length` is what the model was trained with, where its configuration says so."""
        self.source = source
        config = source.config
        positions = int(getattr(config, "max_position_embeddings", 0)) or 512
        if "roberta" in config.model_type:
            positions -= int(config.pad_token_id) + 1  # RoBERTa counts its positions from there
        self.context_length = min(positions, context_length or positions)
        self.width = int(source.transformer.get_input_embeddings().weight.shape[1])
        self.depth = int(config.num_hidden_layers)
        self.joint_width = int(source.output_dim)

    @property
    def traits(self) -> tuple[object, ...]:
        """What decides its features beside its weights."""
        config = self.source.config
        pooled = type(self.source.pooler).__name__, getattr(self.source.pooler, "use_pooler_output", None)
        eps = getattr(config, "layer_norm_eps", None)
        return config.model_type, config.num_attention_heads, getattr(config, "hidden_act", None), eps, *pooled

    @property
    def words(self) -> Float[Tensor, "V W"]:
        """The embedding of every token."""
        table: Tensor = self.source.transformer.get_input_embeddings().weight
        return table

    def compile(self) -> None:
        """For any number of texts and positions."""
        self.source.transformer.compile(dynamic=True)

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape W"]:
        embedded: Tensor = self.source.transformer.get_input_embeddings()(ids)
        return embedded

    def encode(self, embedded: Float[Tensor, "N L W"], mask: Bool[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """Unit-norm features of embedded texts, as `HFTextEncoder.forward` makes them of ids."""
        attended = mask.long()
        out = self.source.transformer(inputs_embeds=embedded, attention_mask=attended)
        return F.normalize(self.source.proj(self.source.pooler(out, attended)), dim=-1)


class HFPromptEncoder:
    """Text features under contexts, which stand where the classes leave places. Padding is masked, and cut to the longest.

    In as many passes as fit in `memory_bytes` (None: as `PromptEncoder`). Several passes compute their activations again for
    the backward pass, unless `checkpoint` is "off"; all do where it is "on".
    """

    def __init__(self, tower: HFTextTower) -> None:
        self.tower = tower
        self.memory_bytes: int | None = None
        self.checkpoint: Literal["auto", "on", "off"] = "auto"
        self._last = 1

    def __call__(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B C K D"]:
        """Unit-norm features of every class under every context.

        Raises BackboneError when the prompts don't fit the classes or the tower.
        """
        context = self._check(prompts, classes)
        images, _, n_prompts, n_ctx, width = context.shape
        n_classes = len(classes.names)
        if not n_classes:
            return context.new_empty(images, 0, n_prompts, self.tower.joint_width)
        mask = (classes.ids != self.tower.source.config.pad_token_id).scatter(1, classes.context_positions, True)
        length = int(mask.sum(1).max())
        mask, positions = mask[:, :length], classes.context_positions
        embedded = self.tower.embed(classes.ids[:, :length].clamp(min=0))
        rows = context.transpose(1, 2).flatten(0, 1).expand(-1, n_classes, -1, -1)  # (R C M W)

        def encode(some: Tensor) -> Tensor:
            """Texts by their number, that of the row times C plus that of the class."""
            row, name = some // n_classes, some % n_classes
            at = positions[name][..., None].expand(-1, n_ctx, width)
            context = rows[row, name].to(embedded.dtype)
            return self.tower.encode(embedded[name].scatter(1, at, context), mask[name])

        everything = torch.arange(len(rows) * n_classes, device=embedded.device)
        passes = [everything]
        if not torch.compiler.is_compiling():  # an export: what follows counts the images
            passes = list(torch.split(everything, self._texts(length, embedded.device)))
            self._last = len(passes[0])
        again = torch.is_grad_enabled() and rows.requires_grad and self.checkpoint != "off"
        again = again and (len(passes) > 1 or self.checkpoint == "on")
        features = [
            checkpoint(encode, some, use_reentrant=False, preserve_rng_state=False) if again else encode(some)
            for some in passes
        ]
        return torch.unflatten(torch.cat(features), 0, (images, n_prompts, n_classes)).transpose(1, 2)

    def halve_chunks(self) -> bool:
        """Let the next passes hold half of what the last ones held. False when they were of one text each."""
        if self._last == 1:
            return False
        if self.checkpoint == "off":
            self.checkpoint = "auto"
        self.memory_bytes = max(1, self._bytes * (self._last // 2))
        self._last = 1  # if memory runs out again before text is encoded, smaller passes would not help
        return True

    def _texts(self, length: int, device: torch.device) -> int:
        """How many texts a pass takes. Autograd keeps about 34 numbers for each of a token's in a layer, attention aside."""
        heads = int(self.tower.source.config.num_attention_heads)
        self._bytes = 4 * self.tower.depth * length * (34 * self.tower.width + 2 * heads * length)
        return max(1, (self.memory_bytes or default_budget(device)) // self._bytes)

    def _check(self, prompts: TextPrompts, classes: ClassTokens) -> Float[Tensor, "#B #C K M W"]:
        """The contexts, none for classes without open places."""
        if prompts.deep is not None or prompts.read_only is not None or prompts.edits:
            raise BackboneError(
                "a text tower of Hugging Face takes contexts at its input, and no deep prompts, read-only prompts or edits",
                "pick a learner without them, or a backbone with open_clip's own text transformer",
            )
        context = prompts.context
        if context is None:
            context = self.tower.words.new_empty(1, 1, 1, 0, self.tower.width)
        check_context(context, classes, self.tower.width)
        return context
