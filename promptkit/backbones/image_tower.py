"""open_clip's image towers: their blocks read out, and prompts put in, while their own forward runs."""

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
from promptkit.errors import BackboneError
from promptkit.tensors import ImageFeatures


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
        """Block by block, so that intermediates and prompts, which are hooks on the blocks, stay outside."""
        for block in self.blocks:
            block.forward = torch.compile(block.forward, dynamic=True)

    def encode(
        self,
        pixels: Float[Tensor, "B 3 H Wd"],
        prompts: Float[Tensor, "J #B M V"] | None,
        intermediates: Intermediates | None,
        patches: bool,
    ) -> ImageFeatures:
        """See `Backbone.encode_image`. Intermediates and patches never see the prompts."""
        n_prompts = 0 if prompts is None else prompts.shape[2]
        kept: dict[int, Tensor] = {}
        patch_tokens: list[Tensor] = []

        def image_tokens(output: Tensor) -> Float[Tensor, "B N V"]:
            tokens = self._tokens(output)
            return tokens[:, : tokens.shape[1] - n_prompts]

        def keep(index: int, reduce: Callable[[Tensor], Tensor]) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                kept[index] = reduce(image_tokens(output).float()).float()

            return hook

        def keep_patches(module: nn.Module, args: Any, output: Tensor) -> None:
            patch_tokens.append(image_tokens(output)[:, 1:])

        gradients = torch.is_grad_enabled() and prompts is not None
        with torch.set_grad_enabled(gradients), ExitStack() as hooks:
            if intermediates:
                for index in self._tapped(intermediates):
                    hooks.enter_context(self.blocks[index].register_forward_hook(keep(index, intermediates.reduce)))
            if patches:
                self._check_patches()
                hooks.enter_context(self.blocks[-1].register_forward_hook(keep_patches))
            if prompts is not None:
                self._insert(prompts, hooks)
            pooled = self.visual(pixels)
            if isinstance(pooled, tuple):  # towers built with output_tokens, such as CoCa's
                pooled = pooled[0]
            projected = [F.normalize((self.visual.ln_post(t) @ self.visual.proj).float(), dim=-1) for t in patch_tokens]
            return ImageFeatures(
                F.normalize(pooled.float(), dim=-1),
                projected[0] if patches else None,
                tuple(kept[index] for index in sorted(kept)),
            )

    def _tokens(self, output: Tensor) -> Float[Tensor, "B N V"]:
        if output.ndim == 4:
            channels_last = getattr(getattr(self.visual, "trunk", None), "output_fmt", "NCHW") == "NHWC"
            return output.flatten(1, 2) if channels_last else output.flatten(2).transpose(1, 2)
        return self._batch_first(output) if self.is_vit else output

    def _batch_first(self, tokens: Tensor) -> Tensor:
        """Between the layout of the ViT's blocks and (B N V), either way."""
        return tokens if self.visual.transformer.batch_first else tokens.transpose(0, 1)

    def _insert(self, prompts: Float[Tensor, "J #B M V"], hooks: ExitStack) -> None:
        """Append prompts before the norm in front of block 0, replace them at the input of the next blocks, drop them
        after the last."""
        depth, _, n_prompts, width = prompts.shape
        if not self.is_vit:
            raise BackboneError(
                f"the image tower {type(self.visual).__name__} takes no prompts",
                "choose a ViT of open_clip, such as ViT-B-16",
            )
        if depth > len(self.blocks) or width != self.widths[0]:
            raise BackboneError(
                f"vision prompts for {depth} blocks, {width} wide; this image tower has {len(self.blocks)} blocks, "
                f"{self.widths[0]} wide"
            )

        def put(index: int) -> Callable[..., tuple[Tensor]]:
            def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
                tokens = self._batch_first(args[0])
                if index:
                    tokens = tokens[:, :-n_prompts]
                # ln_pre works token by token, so to norm the prompts alone is to append them in front of it.
                new = prompts[index] if index else self.visual.ln_pre(prompts[0])
                new = new.to(tokens.dtype).expand(len(tokens), -1, -1)
                return (self._batch_first(torch.cat([tokens, new], dim=1)),)

            return hook

        for index in range(depth):
            hooks.enter_context(self.blocks[index].register_forward_pre_hook(put(index)))
        hooks.enter_context(
            self.blocks[-1].register_forward_hook(
                lambda _, __, output: self._batch_first(self._batch_first(output)[:, :-n_prompts])
            )
        )

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
