"""Deltas, residuals, late and read-only prompts: what open_clip's own modules compute with other weights, hooks and masks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import normalize

from promptkit.backbones.base import Intermediates
from promptkit.backbones.openclip import OpenClipBackbone, load_openclip
from promptkit.backbones.tiny import tiny_backbone
from promptkit.edits import Delta, Edits
from promptkit.errors import BackboneError
from promptkit.tensors import ImagePrompts, TextPrompts

Make = Callable[..., OpenClipBackbone]

NAMES = ("cat", "hot dog", "sea anemone")
CAPTIONS = [f"a photo of a {name}." for name in NAMES]
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SLICES = {"q": 0, "k": 1, "v": 2}
PLACES = {"out": "attn.out_proj.weight", "fc1": "mlp.c_fc.weight", "fc2": "mlp.c_proj.weight"}
VARIANTS: dict[str, Callable[[], OpenClipBackbone]] = {
    "gelu": tiny_backbone,
    "quick gelu": lambda: tiny_backbone(quick_gelu=True),
    "custom": lambda: tiny_backbone(
        text={"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True, "scale_fc": True},
        vision={"ls_init_value": 0.5},
    ),
}


def close(made: Any, expected: Any, tolerance: float) -> None:
    assert float(((made - expected).norm() / expected.norm()).detach()) < tolerance


def equal(made: Tensor, expected: Tensor, learned: list[Tensor]) -> None:
    """Features within 1e-5, gradients of what is learned within 1e-4, relative."""
    close(made.detach(), expected.detach(), 1e-5)
    probe = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
    found, right = (torch.autograd.grad((t * probe).sum(), learned, retain_graph=True) for t in (made, expected))
    for one, other in zip(found, right, strict=True):
        assert other.norm() > 1e-3
        close(one, other, 1e-4)


def draw(*shape: int, seed: int = 0, scale: float = 0.3) -> Tensor:
    made = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_()


def deltas_of(width: int, seed: int) -> tuple[dict[Any, Delta], list[Tensor]]:
    sizes = {name: (width, width) for name in ("q", "k", "v", "out")}
    sizes |= {"fc1": (4 * width, width), "fc2": (width, 4 * width)}
    deltas = {}
    for i, (name, (out, into)) in enumerate(sizes.items()):
        for block in {i % 3, 1, 2}:
            deltas[block, name] = Delta(draw(2, into, seed=seed + 9 * i + block), draw(out, 2, seed=seed + i), 0.5)
    return deltas, [tensor for delta in deltas.values() for tensor in (delta.down, delta.up)]


def changed(model: Any, prefix: str, deltas: dict[Any, Delta]) -> dict[str, Tensor]:
    """The weights of a model with the deltas added, by name."""
    weights: dict[str, Tensor] = {}
    for (block, name), delta in deltas.items():
        path = f"{prefix}.resblocks.{block}.{PLACES.get(name, 'attn.in_proj_weight')}"
        weight = weights.get(path, dict(model.named_parameters())[path])
        dense = delta.scale * delta.up @ delta.down
        if name in SLICES:
            rows = [torch.zeros_like(dense)] * 3
            rows[SLICES[name]] = dense
            dense = torch.cat(rows)
        weights[path] = weight + dense
    return weights


@pytest.mark.parametrize("kind", VARIANTS)
def test_deltas_are_added_weights(kind: str) -> None:
    backbone = VARIANTS[kind]()
    model, state = backbone.model, {name: p.clone() for name, p in backbone.model.state_dict().items()}
    for seed in (0, 50):  # one learner and another, on one backbone
        text, learned = deltas_of(32, seed)
        prompts = TextPrompts(backbone.embed_words("a photo of a")[None, None, None], edits=Edits(text))
        made = backbone.encode_text(prompts, backbone.class_tokens(NAMES, 4))[0, :, 0]
        weights = changed(model, "transformer", text)
        ids = backbone.prompt_tokenizer.tokenizer(CAPTIONS)
        x = functional_call(model, weights, (None, ids))[1]
        equal(made, normalize(x, dim=-1), learned)

        image, learned = deltas_of(48, seed)
        seen = backbone.encode_image(PIXELS, ImagePrompts(edits=Edits(image)), patches=True)
        weights = changed(model.visual, "transformer", image)
        equal(seen.pooled, normalize(functional_call(model.visual, weights, (PIXELS,)), dim=-1), learned)
    assert all(torch.equal(p, state[name]) for name, p in model.state_dict().items())


def test_deltas_together_with_prompts_and_in_a_tower_that_is_not_batch_first() -> None:
    backbone = tiny_backbone()
    visual = backbone.model.visual
    deltas, learned = deltas_of(48, 0)
    tokens = draw(2, 1, 3, 48, scale=1)
    prompts = ImagePrompts(tokens, edits=Edits(deltas))
    first = backbone.encode_image(PIXELS, prompts, Intermediates(lambda t: t.mean(1)))
    visual.transformer.batch_first = False
    for block in visual.transformer.resblocks:
        block.attn.batch_first = False
    second = backbone.encode_image(PIXELS, prompts, Intermediates(lambda t: t.mean(1)))
    equal(first.pooled, second.pooled, [tokens, *learned])
    close(first.intermediates[1], second.intermediates[1], 1e-5)


@pytest.mark.parametrize("kind", VARIANTS)
def test_residuals_stand_beside_or_behind(kind: str) -> None:
    backbone = VARIANTS[kind]()
    model = backbone.model
    for tower, width in (("text", 32), ("image", 48)):
        blocks = (model.transformer if tower == "text" else model.visual.transformer).resblocks
        weights = {(0, "block"): draw(width, width), (1, "mlp"): draw(width, width, seed=1)}
        weights |= {(2, "mlp"): draw(width, width, seed=2), (2, "after"): draw(width, width, seed=3)}
        residuals = {key: lambda x, weight=weight: (x @ weight).tanh() for key, weight in weights.items()}
        handles, normed = [], {}
        for (index, place), residual in residuals.items():
            if place != "after":
                norm = blocks[index].ln_1 if place == "block" else blocks[index].ln_2
                handles.append(norm.register_forward_hook(lambda m, a, out, i=index, to=normed: to.update({i: out})))

            def add(
                m: Any, a: Any, out: Tensor, i: int = index, p: str = place, f: Any = residual, to: Any = normed
            ) -> Tensor:
                return out + f(out if p == "after" else to[i])

            handles.append(blocks[index].register_forward_hook(add))
        edits = Edits(residuals=residuals)
        if tower == "text":
            expected = model.encode_text(backbone.prompt_tokenizer.tokenizer(CAPTIONS), normalize=True)
        else:
            expected = model.encode_image(PIXELS, normalize=True)
        for handle in handles:
            handle.remove()
        if tower == "text":
            prompts = TextPrompts(backbone.embed_words("a photo of a")[None, None, None], edits=edits)
            made = backbone.encode_text(prompts, backbone.class_tokens(NAMES, 4))[0, :, 0]
        else:
            made = backbone.encode_image(PIXELS, ImagePrompts(edits=edits)).pooled
        equal(made, expected, list(weights.values()))


def test_dropout_of_deltas_is_drawn_once_for_both_directions() -> None:
    """A pass that is computed again for its backward pass drops the same."""
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES, 0, words="a photo of a")
    down, up = draw(2, 32), draw(32, 2)
    prompts = TextPrompts(None, edits=Edits({(1, "v"): Delta(down, up, dropout=0.5)}))
    found = []
    for checkpoint, memory in (("off", None), ("on", None)):
        backbone.encoder.checkpoint, backbone.encoder.memory_bytes = checkpoint, memory
        torch.manual_seed(3)
        text = backbone.encode_text(prompts, classes)
        found.append((text.detach(), *torch.autograd.grad(text.square().cos().sum() + text[..., 0].sum(), [down, up])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    torch.manual_seed(4)
    assert not torch.allclose(backbone.encode_text(prompts, classes), found[0][0])


def raw_text(model: Any, x: Tensor, mask: Tensor, blocks: range) -> Tensor:
    for block in model.transformer.resblocks[blocks.start : blocks.stop]:
        x = block(x, attn_mask=mask)
    return x


@pytest.mark.parametrize("per_class", [False, True])
def test_deep_prompts_of_any_first_block(per_class: bool) -> None:
    """As the released code of TCP replaces context tokens."""
    backbone = tiny_backbone()
    model = backbone.model
    classes = backbone.class_tokens(NAMES, 4)
    context, deep = draw(1, 1, 1, 4, 32), draw(1, 3 if per_class else 1, 4, 32, seed=1)
    made = backbone.encode_text(TextPrompts(context, deep, first=2), classes)[0, :, 0]
    x = model.token_embedding(classes.ids)
    x = torch.cat([x[:, :1], context[0, 0].expand(3, -1, -1), x[:, 5:]], dim=1) + model.positional_embedding
    x = raw_text(model, x, model.attn_mask, range(2))
    x = torch.cat([x[:, :1], deep[0].expand(3, -1, -1), x[:, 5:]], dim=1)
    x = raw_text(model, x, model.attn_mask, range(2, 3))
    ends = classes.ids.scatter(1, classes.context_positions, 0).argmax(1)
    expected = normalize(model.ln_final(x[torch.arange(3), ends]) @ model.text_projection, dim=-1)
    equal(made, expected, [context, deep])


def test_places_that_are_empty_up_to_a_block() -> None:
    """As the released code of MMRL inserts its tokens behind the start token."""
    backbone = tiny_backbone()
    model = backbone.model
    deep = draw(2, 1, 5, 32, scale=1)
    made = backbone.encode_text(TextPrompts(None, deep, first=1), backbone.class_tokens(NAMES, 5, words="a photo of a"))
    ids = backbone.prompt_tokenizer.tokenizer(CAPTIONS)
    x = raw_text(model, model.token_embedding(ids) + model.positional_embedding, model.attn_mask, range(1))
    mask = torch.full((82, 82), -torch.inf).triu(1)
    for j, skip in ((0, 1), (1, 6)):
        x = torch.cat([x[:, :1], deep[j].expand(3, -1, -1), x[:, skip:]], dim=1)
        x = raw_text(model, x, mask, range(1 + j, 2 + j))
    expected = model.ln_final(x[torch.arange(3), ids.argmax(1) + 5]) @ model.text_projection
    equal(made[0, :, 0], normalize(expected, dim=-1), [deep])


@pytest.mark.parametrize("images", [1, 2])
def test_read_only_prompts_of_texts(images: int) -> None:
    """As the released code of RPO masks them, for each picture its own."""
    backbone = tiny_backbone()
    model = backbone.model
    readers = draw(images, 1, 2, 32, scale=1)
    classes = backbone.class_tokens(NAMES, 0, words="a photo of a")
    made = backbone.encode_text(TextPrompts(None, read_only=readers), classes)
    assert made.shape == (images, 3, 2, 24)
    ids = backbone.prompt_tokenizer.tokenizer(CAPTIONS)
    rows = []
    for reader in readers:
        x, masks = model.token_embedding(ids) + model.positional_embedding, []
        ends = ids.argmax(1)
        for end in ends.tolist():
            mask = torch.full((77, 77), -torch.inf).triu(1)
            mask[:, end + 1 :] = -torch.inf
            masks.append(mask.expand(4, -1, -1))
        at = (torch.arange(3)[:, None].expand(-1, 2), ends[:, None] + torch.arange(1, 3))
        x = raw_text(model, x.index_put(at, reader.expand(3, -1, -1)), torch.cat(masks), range(3))
        rows.append(normalize(model.ln_final(x[at]) @ model.text_projection, dim=-1))
    equal(made, torch.stack(rows), [readers])


@pytest.mark.parametrize("first", [0, 1])
def test_read_only_prompts_of_pictures_and_what_becomes_of_them(first: int) -> None:
    backbone = tiny_backbone()
    visual = backbone.model.visual
    with torch.no_grad():
        visual.ln_pre.weight.normal_()
    tokens = draw(2, 1, 3, 48, scale=1)
    asked = ImagePrompts(tokens, first, read_only=True, keep=True)
    seen = backbone.encode_image(PIXELS, asked, Intermediates(lambda t: t.mean(1)), patches=True)
    plain = backbone.encode_image(PIXELS, None, Intermediates(lambda t: t.mean(1)), patches=True)
    torch.testing.assert_close(seen.pooled, plain.pooled)
    torch.testing.assert_close(seen.patches, plain.patches)
    assert not seen.pooled.requires_grad
    x = visual._embeds(PIXELS)
    mask = torch.zeros(20, 20)
    mask[:, -3:] = -torch.inf
    for index, block in enumerate(visual.transformer.resblocks):
        if first <= index < first + 2:
            new = tokens[index - first].expand(2, -1, -1)
            x = torch.cat([x[:, :17], visual.ln_pre(new) if index == 0 else new], dim=1)
        x = block(x, attn_mask=mask) if x.shape[1] == 20 else block(x)
    equal(seen.prompts, visual.ln_post(x[:, 17:]) @ visual.proj, [tokens])


def test_outputs_of_prompts_that_see_and_are_seen() -> None:
    """As the released code of MMRL, whose tokens stand behind the class token; a picture has no order but its positions."""
    backbone = tiny_backbone()
    visual = backbone.model.visual
    tokens, projection = draw(2, 1, 3, 48, scale=1), draw(48, 24, seed=5)
    seen = backbone.encode_image(PIXELS, ImagePrompts(tokens, 1, keep=True, projection=projection))
    x = visual.transformer.resblocks[0](visual._embeds(PIXELS))
    for j, skip in ((0, 1), (1, 4)):
        x = torch.cat([x[:, :1], tokens[j].expand(2, -1, -1), x[:, skip:]], dim=1)
        x = visual.transformer.resblocks[1 + j](x)
    equal(seen.prompts, visual.ln_post(x[:, 1:4]) @ projection, [tokens, projection])
    equal(seen.pooled, normalize(visual.ln_post(x[:, 0]) @ visual.proj, dim=-1), [tokens])
    parts = seen.split()["image"].rows(torch.tensor([1]))
    torch.testing.assert_close(parts.prompts, seen.prompts[1:])
    alone = backbone.encode_image(PIXELS[:1], ImagePrompts(tokens, 1, keep=True, projection=projection))
    together = type(seen).together([alone, parts])
    torch.testing.assert_close(together.prompts, seen.prompts)


def test_what_does_not_fit_is_said(folder: Callable[..., str]) -> None:
    backbone = tiny_backbone()
    classes = backbone.class_tokens(NAMES, 2)
    context = torch.zeros(1, 1, 1, 2, 32)
    wide, odd = Delta(torch.zeros(1, 31), torch.zeros(32, 1)), Delta(torch.zeros(1, 32), torch.zeros(32, 1))
    wrong: list[tuple[Any, str]] = [
        (
            TextPrompts(context, edits=Edits({(3, "q"): odd})),
            "an edit in block 3 of the text tower, which has 3, from 0",
        ),
        (
            TextPrompts(context, edits=Edits({(1, "q"): wide})),
            "a delta of 32 x 31 for the weight 'q' of block 1 of the text",
        ),
        (
            TextPrompts(context, edits=Edits({(1, "o"): odd})),
            "no weight of a block is called 'o'; there are q, k, v, out",
        ),  # type: ignore[dict-item]
        (TextPrompts(None), "no context for classes with 2 open places"),
        (TextPrompts(context.expand(-1, -1, 2, -1, -1), read_only=torch.zeros(1, 1, 2, 32)), "behind 2 contexts"),
        (TextPrompts(context, read_only=torch.zeros(1, 2, 2, 32)), "read-only prompts of 2 classes, 32 wide"),
    ]
    for prompts, message in wrong:
        with pytest.raises(BackboneError, match=message):
            backbone.encode_text(prompts, classes)
    with pytest.raises(BackboneError, match="outputs of vision prompts asked for"):
        backbone.encode_image(PIXELS, ImagePrompts(keep=True))
    cnn = load_openclip(folder({"timm_model_name": "test_resnet"}), "none")
    with pytest.raises(BackboneError, match="takes no prompts and no edits"):
        cnn.encode_image(torch.zeros(1, 3, *cnn.image.size), ImagePrompts(edits=Edits({(0, "q"): odd})))


@pytest.mark.parametrize("kind", [*VARIANTS, "coca"])
def test_towers_on_foot(make_backbone: Make, kind: str) -> None:
    backbone = make_backbone("plain", "coca") if kind == "coca" else VARIANTS[kind]()
    classes, context = backbone.class_tokens(NAMES, 4, "middle"), draw(1, 4, 32)
    text = backbone.text_blocks
    tokens, mask = text.embed(classes, context), text.mask(classes)
    for index in range(text.depth):
        tokens = text.block(index, tokens, mask)
    features = text.read(tokens[torch.arange(3), text.read_at(classes)])
    equal(features, backbone.encode_text(TextPrompts(context[None, None]), classes)[0, :, 0], [context])
    if kind == "coca":
        with pytest.raises(BackboneError, match="can't be walked"):
            _ = backbone.image_blocks
        return
    image, extra = backbone.image_blocks, draw(1, 2, 48, scale=1)
    assert image.weight_shape(0, "fc1") == (192, 48)
    assert text.weight_shape(1, "fc2") == (32, 128)
    blind = torch.zeros(2, 19, 19)
    blind[:, :, 17:] = -torch.inf
    for mask, read_only in ((None, False), (blind, True)):
        tokens = image.embed(PIXELS, extra)
        for index in range(image.depth):
            tokens = image.block(index, tokens, mask)
        seen = backbone.encode_image(PIXELS, ImagePrompts(extra[None], read_only=read_only, keep=True))
        equal(image.read(tokens[:, 17:]), normalize(seen.prompts, dim=-1), [extra])
        close(image.read(tokens[:, 0]).detach(), seen.pooled.detach(), 1e-5)
    assert image.class_token.shape == (48,)
