"""Both recipes of GOPro against a literal computation: 77 tokens, one picture, class and view at a time."""

import math
from dataclasses import fields

import numpy as np
import open_clip
import promptkit_gopro
import pytest
import torch
from promptkit_gopro.losses import GOProLoss
from promptkit_gopro.projector import GOProProjector, ReferenceProjector
from promptkit_gopro.prompts import GOProPrompts, mean_and_deviation
from promptkit_gopro.views import VIEWS
from torch import Tensor
from torch.nn import functional as F

from promptkit import ConfigError, TrainingError
from promptkit.backbones.base import Backbone
from promptkit.components import NoOptions, Projector, Scene, template_features
from promptkit.learner import Learner
from promptkit.tensors import Batch, ImageFeatures
from promptkit.testing import build_recipe, tiny_backbone

NAMES = ("cat", "yellow school bus", "aeroplane at night")
TOKENIZER = open_clip.SimpleTokenizer()
# Nothing depends on these: layer normalisation takes a number added to a whole token out again, and batch normalisation
# one added to a whole channel.
INERT = {"projector.image_map.bias", *(f"prompts.rho.{head}.bias" for head in ("shared", *VIEWS))}
REFERENCE = {"style": "average", "heads": "shared", "init": "torch"}


def build(projector: type[Projector] = GOProProjector, backbone: Backbone | None = None, **options: str) -> Learner:
    torch.manual_seed(0)
    scene = Scene(backbone or tiny_backbone(), NAMES)
    return Learner(
        NoOptions(),
        scene,
        GOProPrompts(GOProPrompts.Options(**options), scene),
        projector(NoOptions(), scene),
        GOProLoss(GOProLoss.Options(), scene),
    )


def batch(images: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(images, 3, 32, 32, generator=generator)
    views = {name: first + i * torch.randn(first.shape, generator=generator) for i, name in enumerate(VIEWS)}
    return Batch(views, torch.arange(images) % len(NAMES))


# The literal computation.


def attention(attn: torch.nn.MultiheadAttention, x: Tensor, causal: bool) -> Tensor:
    """Self-attention over tokens (N W), written out."""
    mask = torch.full((len(x), len(x)), -torch.inf).triu(1) if causal else torch.zeros(len(x), len(x))
    qkv = (x @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=-1)
    heads = zip(*(part.chunk(attn.num_heads, dim=-1) for part in qkv), strict=True)
    mixed = [((q @ k.T) / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v for q, k, v in heads]
    return torch.cat(mixed, dim=-1) @ attn.out_proj.weight.T + attn.out_proj.bias


def run_block(block: torch.nn.Module, x: Tensor, causal: bool) -> Tensor:
    x = x + attention(block.attn, block.ln_1(x), causal)
    return x + block.mlp(block.ln_2(x))


def image_tower(visual: torch.nn.Module, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """From a picture (3 H W): its unit-norm feature (D) and every block's tokens (N V)."""
    patches = visual.conv1(image[None])[0].flatten(1).T
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
    blocks = []
    for block in visual.transformer.resblocks:
        x = run_block(block, x, causal=False)
        blocks.append(x)
    feature = visual.ln_post(x[0]) @ visual.proj
    return feature / feature.norm(), blocks


def text_feature(clip: torch.nn.Module, ctx: Tensor, name: str) -> Tensor:
    """The unit-norm feature (D) of "<context> <name>." with context vectors (M W)."""
    words = clip.token_embedding(
        torch.tensor([*TOKENIZER.encode(name), *TOKENIZER.encode("."), TOKENIZER.eot_token_id])
    )
    prompt = torch.cat([clip.token_embedding(torch.tensor([TOKENIZER.sot_token_id])), ctx, words])
    padding = clip.token_embedding(torch.zeros(77 - len(prompt), dtype=torch.long))
    x = torch.cat([prompt, padding]) + clip.positional_embedding
    for block in clip.transformer.resblocks:
        x = run_block(block, x, causal=True)
    feature = clip.ln_final(x)[len(prompt) - 1] @ clip.text_projection
    return feature / feature.norm()


def literal_shift(prompts: GOProPrompts, blocks: list[Tensor], view: str) -> Tensor:
    """What is added to each context token (W), from every block's tokens (N V) of one picture."""
    merged = []
    for tokens, style, content in zip(blocks, prompts.style, prompts.content, strict=True):
        mu = tokens.sum(0) / len(tokens)
        sigma = (((tokens - mu) ** 2).sum(0) + 2.3e-8).div(len(tokens)).sqrt()
        seen = torch.cat([mu, sigma]) if prompts.options.style == "separate" else (mu + sigma) / 2
        merged.append(((style.weight @ seen + style.bias) + (content.weight @ mu + content.bias)) / 2)
    rho = prompts.rho["shared" if prompts.options.heads == "shared" else view]
    return sum(weight * one for weight, one in zip(rho.weight[0], merged, strict=True)) + rho.bias


def literal_image_projection(projector: Projector, features: Tensor) -> Tensor:
    if isinstance(projector, GOProProjector):
        return torch.stack([unit(projector.image_map.weight @ feature) for feature in features])
    linear, norm = projector.image_map, projector.image_norm
    z = torch.stack([linear.weight @ feature + linear.bias for feature in features])
    return (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() * norm.weight + norm.bias


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def literal_contrast(a: Tensor, b: Tensor) -> Tensor:
    losses = []
    for own, other in ((a, b), (b, a)):
        for i in range(len(own)):
            to_other = [(unit(own[i]) @ unit(one) / 0.1).exp() for one in other]
            to_own = [(unit(own[i]) @ unit(one) / 0.1).exp() for j, one in enumerate(own) if j != i]
            losses.append(-(to_other[i] / sum(to_other + to_own)).log())
    return sum(losses) / len(losses)


def literal(learner: Learner, seen: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits (B C) and loss terms."""
    clip, prompts, projector = learner.scene.backbone.model, learner.prompts, learner.projector
    image, text = {}, {}
    for view, batch in seen.views.items():
        images, texts = [], []
        for pixels in batch:
            feature, blocks = image_tower(clip.visual, pixels)
            ctx = torch.stack([token + literal_shift(prompts, blocks, view) for token in prompts.ctx[0, 0]])
            images.append(feature)
            texts.append(torch.stack([text_feature(clip, ctx, name) for name in NAMES]))
        image[view], text[view] = torch.stack(images), torch.stack(texts)
    projected = {view: literal_image_projection(projector, features) for view, features in image.items()}
    if isinstance(projector, GOProProjector):
        for view, features in text.items():
            maps = [[unit(projector.text_map.weight @ t) for t in one] for one in features]
            text[view] = torch.stack([torch.stack(one) for one in maps])
        image = projected
    logits = torch.stack(
        [
            torch.stack([clip.logit_scale.exp() * feature @ t for t in texts])
            for feature, texts in zip(image["image"], text["image"], strict=True)
        ]
    )
    return logits, {
        "ce": F.cross_entropy(logits, seen.label),
        "consistency": ((text["image"] - text["moco"]) ** 2).mean() + ((text["image"] - text["augmix"]) ** 2).mean(),
        "contrast": 0.1 * literal_contrast(projected["image"], projected["moco"]),
    }


@pytest.mark.parametrize(
    ("projector", "options"),
    [(GOProProjector, {}), (ReferenceProjector, REFERENCE)],
    ids=["gopro", "gopro-reference"],
)
def test_recipe_is_its_formula(projector: type[Projector], options: dict[str, str]):
    learner = build(projector, **options)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    seen = batch(3)
    outputs = learner(seen)
    terms = learner.loss(outputs)
    logits, expected = literal(learner, seen)
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms, expected, rtol=1e-5, atol=1e-6)
    parameters = dict(learner.named_parameters())
    learner.backward(terms)
    theirs = torch.autograd.grad(sum(expected.values()), list(parameters.values()))
    for (name, parameter), gradient in zip(parameters.items(), theirs, strict=True):
        error = (parameter.grad - gradient).norm()
        if name in INERT:
            assert max(parameter.grad.norm(), gradient.norm()) < 1e-5, name
        else:
            assert gradient.norm() > 1e-6, name
            assert error <= 1e-4 * gradient.norm(), name


# What the parts promise.


def test_mean_and_deviation():
    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 3, dtype=torch.float16)
    moments = mean_and_deviation(tokens)
    assert moments.dtype == torch.float32
    values = tokens.double().numpy()
    np.testing.assert_allclose(moments[:, 0], values.mean(1), atol=1e-6)
    np.testing.assert_allclose(moments[:, 1], values.std(1), atol=1e-5)
    flat = mean_and_deviation(torch.ones(1, 4, 3))
    torch.testing.assert_close(flat[:, 1], torch.full((1, 3), math.sqrt(2.3e-8 / 4)))


def test_training_starts_at_a_photo_of_a():
    scene, pixels = build().scene, batch(4).views["image"]
    zeroshot = template_features(scene, NAMES, ["a photo of a {}."])
    expected = scene.backbone.logit_scale * scene.backbone.encode_image(pixels).pooled @ zeroshot.T
    small, torch_default = (build(init=init).eval() for init in ("small", "torch"))
    apart = (small.predict(Batch.of(pixels)) - expected).abs().max()
    assert apart < 0.1
    assert (torch_default.predict(Batch.of(pixels)) - expected).abs().max() > 5 * apart


def test_heads_are_the_views_own_and_evaluation_uses_the_images():
    learner = build().eval()
    seen = batch(2)
    before, texts = learner.predict(Batch.of(seen.views["image"])), learner(seen).views
    with torch.no_grad():
        learner.prompts.rho["moco"].weight += 0.1
    torch.testing.assert_close(learner.predict(Batch.of(seen.views["image"])), before)
    after = learner(seen).views
    for view in VIEWS:
        assert torch.allclose(after[view].text, texts[view].text) == (view != "moco")


def test_a_view_without_a_head():
    features = ImageFeatures(
        torch.randn(2, 24), intermediates=tuple(torch.randn(2, 2, 48) for _ in range(3)), views=("blurred",)
    )
    assert build(heads="shared").prompts.text(features).context.shape == (2, 1, 1, 4, 32)
    with pytest.raises(ConfigError, match="none for 'blurred'"):
        build().prompts.text(features)


def test_blocks_may_differ_in_width():
    resnet = tiny_backbone(vision={"layers": (1, 1, 1, 1), "width": 8, "head_width": 16})
    learner = build(backbone=resnet)
    assert len(set(resnet.intermediate_widths)) > 1
    learner.backward(learner.loss(learner(batch(2))))
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_paper_projectors_start_as_the_identity():
    projector = build().projector
    features = F.normalize(torch.randn(4, 24), dim=-1)
    torch.testing.assert_close(projector.image(features), features)
    torch.testing.assert_close(projector.text(features[:, None, None]), features[:, None, None])


def test_batch_normalisation_needs_two_images_in_training_only():
    learner = build(ReferenceProjector, **REFERENCE)
    with pytest.raises(TrainingError, match="one picture"):
        learner(batch(1))
    pixels = batch(2).views["image"]
    learner.eval()
    torch.testing.assert_close(learner.predict(Batch.of(pixels[:1])), learner.predict(Batch.of(pixels))[:1])


def test_running_statistics_change_no_prediction():
    learner = build(ReferenceProjector, **REFERENCE)
    pixels = batch(3).views["image"]
    before = learner.eval().predict(Batch.of(pixels))
    learner.train()(batch(3))
    assert learner.projector.image_norm.running_mean.abs().max() > 0
    torch.testing.assert_close(learner.eval().predict(Batch.of(pixels)), before)


def test_recipes_name_components_and_options_that_exist():
    found: dict[str, dict[str, object]] = {}
    for slot in ("prompts", "projectors", "views", "losses", "recipes"):
        found[slot] = {}
        getattr(promptkit_gopro, f"register_{slot}")(found[slot].__setitem__)
    assert set(found["recipes"]) == {"gopro", "gopro-reference"}
    for recipe in found["recipes"].values():
        prompts = found["prompts"][recipe.prompts]
        assert recipe.projector in found["projectors"]
        assert set(found["losses"][recipe.loss].views) <= set(found["views"][recipe.views].names)
        options = {f"prompts.{field.name}" for field in fields(prompts.Options)}
        assert {key for key in recipe.settings if key.startswith("prompts.")} <= options
        assert (recipe.settings["train.batch_size"], recipe.settings["train.epochs"]) == (4, 50)
    reference = {
        key.removeprefix("prompts."): value for key, value in found["recipes"]["gopro-reference"].settings.items()
    }
    assert REFERENCE.items() <= reference.items()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("views.min_scale=0", "float, above 0, at most 1"), ("views.min_scale=1.5", "float, above 0, at most 1"),
        ("views.severity=11", "float, at least 0, at most 10"), ("views.severity=nan", "float, at least 0"),
        ("views.chains=0", "int, at least 1"), ("views.depth=0", "int, at least 1"), ("prompts.n_ctx=0", "int, at least 1"),
        ("loss.temperature=0", "float, above 0"), ("loss.contrast=-1", "float, at least 0"),
    ],
)  # fmt: skip
def test_options_out_of_their_range(setting: str, expected: str):
    with pytest.raises(ConfigError, match=rf"{setting.replace('=', '=.')}.: expected {expected}"):
        build_recipe("gopro", sets=[setting])
