"""CoOp and CoCoOp against a literal computation from the formulas: 77 tokens, one picture and one class at a time."""

from collections.abc import Sequence

import open_clip
import promptkit_coop
import pytest
import torch
from promptkit_coop.prompts import CoCoOpPrompts, CoOpPrompts
from torch import Tensor
from torch.nn import functional as F

from promptkit import ConfigError
from promptkit.components import Loss, NoOptions, Projector, PromptGenerator, Scene
from promptkit.learner import Learner, Recipe
from promptkit.tensors import Batch, Outputs
from promptkit.testing import tiny_backbone

NAMES = ("cat", "yellow school bus", "aeroplane at night")
TOKENIZER = open_clip.SimpleTokenizer()


class CrossEntropy(Loss):
    def forward(self, outputs: Outputs) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(outputs.logits, outputs.label)}


def build(prompts: type[PromptGenerator], **options: object) -> Learner:
    torch.manual_seed(0)
    scene = Scene(tiny_backbone(), NAMES)
    parts = prompts(prompts.Options(**options), scene), Projector(NoOptions(), scene), CrossEntropy(NoOptions(), scene)
    return Learner(NoOptions(), scene, *parts)


def text_feature(learner: Learner, ctx: Tensor, name: str, position: str) -> Tensor:
    """The unit-norm feature (D) of a class name among context vectors (M W), from the weights of open_clip's model."""
    clip = learner.scene.backbone.model
    words = clip.token_embedding(torch.tensor(TOKENIZER.encode(name)))
    start, dot, end = clip.token_embedding(
        torch.tensor([TOKENIZER.sot_token_id, *TOKENIZER.encode("."), TOKENIZER.eot_token_id])
    ).split(1)
    half = len(ctx) // 2
    middle = {
        "end": [ctx, words],
        "middle": [ctx[:half], words, ctx[half:]],
        "front": [words, ctx],
    }[position]
    prompt = torch.cat([start, *middle, dot, end])
    padding = clip.token_embedding(torch.zeros(77 - len(prompt), dtype=torch.long))
    x = torch.cat([prompt, padding]) + clip.positional_embedding
    for block in clip.transformer.resblocks:
        x = x + attention(block.attn, block.ln_1(x))
        x = x + block.mlp(block.ln_2(x))
    feature = clip.ln_final(x)[len(prompt) - 1] @ clip.text_projection
    return feature / feature.norm()


def attention(attn: torch.nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Causal self-attention over tokens (N W), written out."""
    mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
    qkv = (x @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=-1)
    heads = zip(*(part.chunk(attn.num_heads, dim=-1) for part in qkv), strict=True)
    mixed = [((q @ k.T) / q.shape[-1] ** 0.5 + mask).softmax(-1) @ v for q, k, v in heads]
    return torch.cat(mixed, dim=-1) @ attn.out_proj.weight.T + attn.out_proj.bias


def check(learner: Learner, pixels: Tensor, literal: Sequence[Sequence[Tensor]], image: Tensor) -> None:
    """Logits and the gradients of every learned tensor, against text features for each picture and class."""
    label = torch.tensor([0, 2])
    outputs = learner(Batch({"image": pixels}, label))
    rows = [
        torch.stack([learner.scene.backbone.logit_scale * seen @ feature for feature in features])
        for seen, features in zip(image, literal, strict=True)
    ]
    logits = torch.stack(rows)
    torch.testing.assert_close(outputs.logits, logits, rtol=1e-5, atol=1e-5)
    parameters = dict(learner.named_parameters())
    ours = torch.autograd.grad(learner.loss(outputs)["ce"], list(parameters.values()))
    theirs = torch.autograd.grad(F.cross_entropy(logits, label), list(parameters.values()))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        assert b.norm() > 1e-6, name
        assert (a - b).norm() <= 1e-4 * b.norm(), name


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("start", [{"n_ctx": 5}, {"ctx_init": "a photo of a"}])
def test_coop_is_its_formula(position: str, class_specific: bool, start: dict[str, object], pixels: Tensor):
    learner = build(CoOpPrompts, position=position, class_specific=class_specific, **start)
    assert learner.prompts.ctx.shape == (3 if class_specific else 1, 1, 5 if "n_ctx" in start else 4, 32)
    contexts = learner.prompts.ctx[:, 0].expand(3, -1, -1)
    features = [text_feature(learner, ctx, name, position) for ctx, name in zip(contexts, NAMES, strict=True)]
    image = F.normalize(learner.scene.backbone.model.encode_image(pixels), dim=-1)
    check(learner, pixels, [features] * 2, image)


def test_cocoop_is_its_formula(pixels: Tensor):
    learner = build(CoCoOpPrompts)
    image = F.normalize(learner.scene.backbone.model.encode_image(pixels), dim=-1)
    first, _, second = learner.prompts.meta_net
    features = []
    for seen in image:
        shift = second.weight @ (first.weight @ seen + first.bias).clamp(min=0) + second.bias
        ctx = torch.stack([token + shift for token in learner.prompts.ctx[0, 0]])
        features.append([text_feature(learner, ctx, name, "end") for name in NAMES])
    check(learner, pixels, features, image)


def test_words_are_where_contexts_start():
    learner = build(CoOpPrompts, ctx_init="a photo of a", class_specific=True)
    embedded = learner.scene.backbone.model.token_embedding(torch.tensor(TOKENIZER.encode("a photo of a")))
    torch.testing.assert_close(learner.prompts.ctx.data, embedded.expand(3, 1, -1, -1))
    noise = build(CoOpPrompts, class_specific=True).prompts.ctx
    assert noise.shape == (3, 1, 16, 32)
    assert noise.std().item() == pytest.approx(0.02, rel=0.1)


def test_only_what_is_learned_is_a_parameter():
    assert list(build(CoOpPrompts).state_dict()) == ["prompts.ctx"]
    cocoop = ["prompts.ctx", *(f"prompts.meta_net.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias"))]
    assert list(build(CoCoOpPrompts).state_dict()) == cocoop


def test_any_class_can_be_asked_about(pixels: Tensor):
    for prompts in (CoOpPrompts, CoCoOpPrompts):
        learner = build(prompts).eval()
        before = learner.predict(Batch.of(pixels))
        learner.set_classes(["dog", *NAMES[::-1]])
        torch.testing.assert_close(learner.predict(Batch.of(pixels))[:, 1:], before.flip(1))


def test_class_specific_contexts_know_their_classes_alone(pixels: Tensor):
    learner = build(CoOpPrompts, class_specific=True).eval()
    before = learner.predict(Batch.of(pixels))
    learner.set_classes([NAMES[2], NAMES[0]])
    torch.testing.assert_close(learner.predict(Batch.of(pixels)), before[:, [2, 0]])
    with pytest.raises(ConfigError, match="dog"):
        learner.set_classes(["dog"])


def test_recipes_name_options_that_exist():
    prompts: dict[str, type[PromptGenerator]] = {}
    recipes: dict[str, Recipe] = {}
    promptkit_coop.register_prompts(prompts.__setitem__)
    promptkit_coop.register_recipes(recipes.__setitem__)
    assert set(prompts) == set(recipes) == {"coop", "cocoop"}
    for name, recipe in recipes.items():
        assert recipe.prompts == name
        assert recipe.settings["train.lr"] == 0.002
    assert (recipes["coop"].settings["train.epochs"], recipes["coop"].settings["train.batch_size"]) == (200, 32)
    assert (recipes["cocoop"].settings["train.epochs"], recipes["cocoop"].settings["train.batch_size"]) == (10, 1)
