"""The published training steps done plainly: 77 tokens for every class, picture after picture, an image pass per view.

Written from the formulas of CoOp, CoCoOp and GOPro, on the parameters of a promptkit learner, so that both sides start
from the same weights. Each returns the logits (B C) and the loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.learner import Learner
from promptkit.tensors import Batch, ClassTokens


def encode_text(backbone: OpenClipBackbone, context: Tensor, classes: ClassTokens, length: int | None = None) -> Tensor:
    """One context (M W) before every class name, all of them in full length, or cut to `length` tokens: (C D)."""
    clip = backbone.model
    embedded = clip.token_embedding(classes.ids[:, :length])
    n_ctx = len(context)
    context = context.expand(len(embedded), -1, -1)
    x = torch.cat([embedded[:, :1], context, embedded[:, 1 + n_ctx :]], dim=1) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    ends = classes.ids.scatter(1, classes.context_positions, 0).argmax(-1)
    return F.normalize(x[torch.arange(len(x)), ends] @ clip.text_projection, dim=-1)


def encode_image(backbone: OpenClipBackbone, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Unit-norm features, and the tokens of every block."""
    blocks: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda module, args, output: blocks.append(output))
        for block in backbone.model.visual.transformer.resblocks
    ]
    with torch.no_grad():
        features = F.normalize(backbone.model.visual(pixels), dim=-1)
    for hook in hooks:
        hook.remove()
    return features, blocks


def coop(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    backbone = learner.scene.backbone
    image, _ = encode_image(backbone, batch.views["image"])
    text = encode_text(backbone, learner.prompts.ctx[0, 0], learner.classes)
    logits = backbone.logit_scale * image @ text.T
    return logits, F.cross_entropy(logits, batch.label)


def cocoop(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    backbone, prompts = learner.scene.backbone, learner.prompts
    image, _ = encode_image(backbone, batch.views["image"])
    rows = []
    for feature, shift in zip(image, prompts.meta_net(image), strict=True):
        text = encode_text(backbone, prompts.ctx[0, 0] + shift, learner.classes)
        rows.append(backbone.logit_scale * text @ feature)
    logits = torch.stack(rows)
    return logits, F.cross_entropy(logits, batch.label)


def gopro(learner: Learner, batch: Batch) -> tuple[Tensor, Tensor]:
    """The released code's arithmetic (the recipe `gopro-reference`)."""
    backbone, prompts, projector = learner.scene.backbone, learner.prompts, learner.projector
    images, texts = {}, {}
    for name, pixels in batch.views.items():
        images[name], blocks = encode_image(backbone, pixels)
        rescaled = []
        for tokens, style, content in zip(blocks, prompts.style, prompts.content, strict=True):
            mean = tokens.mean(1)
            deviation = (((tokens - mean[:, None]).square().sum(1) + 2.3e-8) / tokens.shape[1]).sqrt()
            rescaled.append((style((mean + deviation) / 2) + content(mean)) / 2)
        shift = prompts.rho["shared"](torch.stack(rescaled, dim=-1)).squeeze(-1)
        contexts = [prompts.ctx[0, 0] + one for one in shift]
        texts[name] = torch.stack([encode_text(backbone, context, learner.classes) for context in contexts])
    logits = backbone.logit_scale * torch.einsum("bd,bcd->bc", images["image"], texts["image"])
    first, second = (projector.image_norm(projector.image_map(images[name])) for name in ("image", "moco"))
    z = F.normalize(torch.cat([first, second]), dim=-1)
    similarity = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z)).roll(len(first))
    contrast = F.cross_entropy(similarity, partner)
    semantic = F.mse_loss(texts["image"], texts["moco"]) + F.mse_loss(texts["image"], texts["augmix"])
    return logits, F.cross_entropy(logits, batch.label) + semantic + 0.1 * contrast


STEPS = {"coop": coop, "cocoop": cocoop, "gopro-reference": gopro}
