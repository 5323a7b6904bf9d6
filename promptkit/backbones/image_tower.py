"""open_clip's image towers: a ViT block by block, with what a learner puts into it; others as they are, read out."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from promptkit.backbones.base import Intermediates
from promptkit.backbones.blocks import BlockEdits, check_edits, read_block, run_block
from promptkit.errors import BackboneError
from promptkit.tensors import ImageFeatures, ImagePrompts


class ImageTower:
    """Runs a `VisionTransformer`, `ModifiedResNet` or `TimmModel` of open_clip; only the first takes prompts."""

    def __init__(self, visual: nn.Module) -> None:
        self.visual: Any = visual
        self.is_vit = isinstance(visual, VisionTransformer)
        found = list(_blocks(visual))
        self.blocks = [block for block, _ in found]
        self.widths = tuple(width for _, width in found)
        names = {module: name for name, module in visual.named_modules()}
        self.names = tuple(names[block].removeprefix("trunk.") for block in self.blocks)

    def compile(self) -> None:
        """Block by block: what is read, put in or edited stays outside."""
        for block in self.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)

    def encode(
        self,
        pixels: Float[Tensor, "B 3 H Wd"],
        prompts: ImagePrompts | None,
        intermediates: Intermediates | None,
        patches: bool,
    ) -> ImageFeatures:
        """See `Backbone.encode_image`. Intermediates and patches hold no prompts."""
        if prompts is not None:
            self._check_prompts(prompts)
        if patches:
            self._check_patches()
        tapped = self._tapped(intermediates) if intermediates else []
        with torch.set_grad_enabled(torch.is_grad_enabled() and prompts is not None):
            if self.is_vit:
                return self._encode_vit(pixels, prompts or ImagePrompts(), intermediates, tapped, patches)
            kept: dict[int, Tensor] = {}

            def keep(index: int, reduce: Callable[[Tensor], Tensor]) -> Callable[..., None]:
                def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                    kept[index] = reduce(self._tokens(output).float()).float()

                return hook

            with ExitStack() as hooks:
                for index in tapped:
                    assert intermediates is not None
                    hooks.enter_context(self.blocks[index].register_forward_hook(keep(index, intermediates.reduce)))
                pooled = self.visual(pixels)
            return ImageFeatures(
                F.normalize(pooled.float(), dim=-1), None, tuple(kept[index] for index in sorted(kept))
            )

    def _encode_vit(
        self,
        pixels: Float[Tensor, "B 3 H Wd"],
        prompts: ImagePrompts,
        intermediates: Intermediates | None,
        tapped: list[int],
        patches: bool,
    ) -> ImageFeatures:
        """As `VisionTransformer.forward` of open_clip."""
        visual, tokens, batch_first = self.visual, prompts.tokens, self.visual.transformer.batch_first
        x = visual._embeds(pixels)
        n, kept = x.shape[1], []
        readers: Tensor | None = None
        for index, block in enumerate(self.blocks):
            edits = BlockEdits.of(prompts.edits, index)
            if tokens is not None and prompts.first <= index < prompts.first + len(tokens):
                new = tokens[index - prompts.first]
                # ln_pre works token by token, so to norm the prompts alone is to append them in front of it.
                new = (new if index else visual.ln_pre(new)).to(x.dtype).expand(len(x), -1, -1)
                if prompts.read_only:
                    readers = new
                else:
                    x = torch.cat([x[:, :n], new], dim=1)
            if readers is None:
                x = run_block(block, x, edits=edits, batch_first=batch_first)
            else:
                x, readers = read_block(block, x, readers, edits=edits)
            if intermediates and index in tapped:
                kept.append(intermediates.reduce(x[:, :n].float()).float())
        outputs, x = x[:, n:] if readers is None else readers, x[:, :n]
        pooled = self._project(visual._pool(x)[0])
        return ImageFeatures(
            F.normalize(pooled.float(), dim=-1),
            F.normalize(self._project(visual.ln_post(x[:, 1:])).float(), dim=-1) if patches else None,
            tuple(kept),
            prompts=self._project(visual.ln_post(outputs), prompts.projection).float() if prompts.keep else None,
        )

    def _project(self, x: Float[Tensor, "... V"], projection: Tensor | None = None) -> Float[Tensor, "... D"]:
        projection = self.visual.proj if projection is None else projection
        return x if projection is None else x @ projection

    def _tokens(self, output: Tensor) -> Float[Tensor, "B N V"]:
        """Of a tower that is no ViT of open_clip."""
        if output.ndim != 4:
            return output
        channels_last = getattr(getattr(self.visual, "trunk", None), "output_fmt", "NCHW") == "NHWC"
        return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)

    def _check_prompts(self, prompts: ImagePrompts) -> None:
        if not self.is_vit:
            raise BackboneError(
                f"the image tower {type(self.visual).__name__} takes no prompts and no edits",
                "choose a ViT of open_clip, such as ViT-B-16",
            )
        depth, width = len(self.blocks), self.widths[0]
        check_edits("image", self.blocks, prompts.edits)
        if prompts.tokens is None:
            if prompts.keep:
                raise BackboneError("outputs of vision prompts asked for, and there are no prompts")
            return
        if not 0 <= prompts.first <= prompts.first + len(prompts.tokens) <= depth or prompts.tokens.shape[-1] != width:
            start = f" from block {prompts.first} on" if prompts.first else ""
            raise BackboneError(
                f"vision prompts for {len(prompts.tokens)} blocks{start}, {prompts.tokens.shape[-1]} wide; this image tower "
                f"has {depth} blocks, {width} wide"
            )
        if prompts.read_only and getattr(self.blocks[0].attn, "logit_scale", None) is not None:
            raise BackboneError("the image tower's attention is a scaled cosine, which takes no read-only prompts")
        if prompts.keep and self.visual.attn_pool is not None:
            raise BackboneError("this image tower pools by attention, so outputs of prompts can't be projected")

    def _tapped(self, intermediates: Intermediates) -> list[int]:
        count = len(self.blocks)
        if not count:
            raise BackboneError(f"the blocks of the image tower {type(self.visual).__name__} can't be read")
        asked = range(count) if intermediates.blocks is None else intermediates.blocks
        for index in asked:
            if not -count <= index < count:
                raise BackboneError(f"block {index} asked for; the image tower has {count} blocks")
        return sorted({index % count for index in asked})

    def _check_patches(self) -> None:
        if not self.is_vit or self.visual.attn_pool is not None:
            raise BackboneError(
                f"the image tower {type(self.visual).__name__} has no patch features in the joint space",
                "choose a ViT of open_clip, such as ViT-B-16",
            )


def _blocks(visual: Any) -> Iterator[tuple[nn.Module, int]]:
    """What can be read, first to last, with its width."""
    if isinstance(visual, VisionTransformer):
        for block in visual.transformer.resblocks:
            yield block, visual.transformer.width
    elif isinstance(visual, ModifiedResNet):
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            yield stage, stage[-1].conv3.out_channels
    else:
        modules = dict(visual.trunk.named_modules())
        for info in getattr(visual.trunk, "feature_info", ()):
            if info["module"] in modules:  # feature_info names some modules as timm's feature extractor flattens them
                yield modules[info["module"]], info["num_chs"]
