"""Text towers from Hugging Face, on tiny random ones that are made here: contexts, padding, pooling, gradients, a run."""

import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from promptkit import BackboneError
from promptkit.backbones.openclip import OpenClipBackbone, load_openclip
from promptkit.tensors import TextPrompts

transformers = pytest.importorskip("transformers")

Command = Callable[..., "Finished"]

NAMES = ("cat", "yellow school bus", "star")
VISION: dict[str, object] = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 48, "head_width": 12}


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder as open_clip reads it, with the tower's configuration and tokenizer."""

    def make(kind: str, vision: dict[str, object] = VISION, **text: object) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        words = [
            "a",
            "photo",
            "of",
            "cat",
            "yellow",
            "school",
            "bus",
            "star",
            "circle",
            "cross",
            "square",
            ".",
            "dog",
            "plane",
        ]
        (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
        tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"))
        tokenizer.save_pretrained(folder)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        classes = {"bert": transformers.BertConfig, "xlm-roberta": transformers.XLMRobertaConfig}
        config = classes[kind](vocab_size=30, max_position_embeddings=34, pad_token_id=0, **sizes)
        config.save_pretrained(folder)
        text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_proj_type": "mlp", **text}
        whole = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {"context_length": 24, **text}}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": whole, "preprocess_cfg": {}}))
        return folder

    return make


@pytest.fixture(scope="module")
def towers(make: Callable[..., Path]) -> dict[str, OpenClipBackbone]:
    """One for each pooler that such models are published with."""
    pooled = {
        "cls_pooler": make("bert", hf_pooler_type="cls_pooler"),
        "cls_last_hidden_state_pooler": make("bert", hf_pooler_type="cls_last_hidden_state_pooler"),
        "mean_pooler": make("xlm-roberta", hf_pooler_type="mean_pooler"),
    }
    made = {pooler: load_openclip(f"local-dir:{folder}", "none") for pooler, folder in pooled.items()}
    for backbone in made.values():
        with torch.no_grad():
            for name, parameter in backbone.model.text.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3 if "embed" in name else 0.2)
    return made


@pytest.mark.parametrize("pooler", ["cls_pooler", "cls_last_hidden_state_pooler", "mean_pooler"])
def test_features_and_gradients_are_those_of_the_tower_itself(pooler: str, towers: dict[str, OpenClipBackbone]) -> None:
    backbone = towers[pooler]
    tower, clip = backbone.text_tower.source, backbone.model
    captions = [f"a photo of a {name}." for name in NAMES]
    ids = backbone.prompt_tokenizer.tokenizer(captions, context_length=24)
    expected = normalize(clip.encode_text(ids), dim=-1)
    torch.testing.assert_close(backbone.encode_captions(captions), expected, rtol=1e-5, atol=1e-5)

    words = backbone.embed_words("a photo of a")
    assert words.shape == (4, 32)
    context = torch.stack([words, words + 0.3])[:, None, None].requires_grad_()
    classes = backbone.class_tokens(NAMES, 4)
    assert classes.ids.shape == (3, 24)
    text = backbone.encode_text(TextPrompts(context), classes)
    assert text.shape == (2, 3, 1, 24)
    torch.testing.assert_close(text[0, :, 0], expected, rtol=1e-5, atol=1e-5)

    # The plain way: all 24 positions, and the embeddings of the four words replaced.
    embedded = tower.transformer.get_input_embeddings()(ids)
    mask = (ids != 0).long()
    plain = []
    for vectors in context[:, 0, 0]:
        spliced = torch.cat([embedded[:, :1], vectors.expand(3, -1, -1), embedded[:, 5:]], 1)
        plain.append(
            normalize(tower.proj(tower.pooler(tower.transformer(inputs_embeds=spliced, attention_mask=mask), mask)))
        )
    torch.testing.assert_close(text[:, :, 0], torch.stack(plain), rtol=1e-5, atol=1e-5)
    weights = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        torch.autograd.grad((weights * out).sum(), context)[0] for out in (text[:, :, 0], torch.stack(plain))
    )
    assert (ours - theirs).norm() <= 1e-4 * theirs.norm()

    # In passes of one text, computed again for the backward pass, nothing is another.
    backbone.encoder.memory_bytes = 1
    try:
        pieces = backbone.encode_text(TextPrompts(context), classes)
        torch.testing.assert_close(pieces, text)
        again = torch.autograd.grad((weights * pieces[:, :, 0]).sum(), context)[0]
        torch.testing.assert_close(again, ours, rtol=1e-4, atol=1e-6)
        assert not backbone.use_less_memory()
    finally:
        backbone.encoder.memory_bytes = None


def test_contexts_of_each_class_deep_prompts_and_what_does_not_fit(towers: dict[str, OpenClipBackbone]) -> None:
    backbone = towers["cls_pooler"]
    classes = backbone.class_tokens(NAMES, 2, "middle")
    context = torch.randn(1, 3, 2, 2, 32)
    text = backbone.encode_text(TextPrompts(context), classes)
    for row in range(3):
        alone = backbone.encode_text(TextPrompts(context[:, row : row + 1]), classes)
        torch.testing.assert_close(text[:, row], alone[:, row])
    with pytest.raises(BackboneError, match="no deep prompts"):
        backbone.encode_text(TextPrompts(context, torch.zeros(1, 1, 2, 32)), classes)
    with pytest.raises(BackboneError, match="takes 32"):
        backbone.encode_text(TextPrompts(torch.zeros(1, 1, 1, 2, 31)), classes)
    with pytest.raises(BackboneError, match="tokens long"):
        backbone.class_tokens(["cat " * 24], 2)
    assert backbone.nearest_words(backbone.embed_words("star"), 1)[0][0][0] == "star"
    assert len({tower.fingerprint for tower in towers.values()}) == 3


def test_a_repository_of_biomedclips_form_trains_and_answers(
    make: Callable[..., Path], promptkit: Command, images: Path
) -> None:
    """The fields of the published open_clip_config.json, with towers that are small and weights that are random."""
    text = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    vision = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    folder = make("bert", {**vision, "image_size": 160}, **text)
    model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    # Written by a transformers that still kept the numbers of the positions among the weights.
    old = {"text.transformer.embeddings.position_ids": torch.arange(34)[None]}
    torch.save({**model.state_dict(), **old}, folder / "open_clip_pytorch_model.bin")
    own = ("--backbone", f"local-dir:{folder}", "--workers", 0, "--epochs", 1, "--shots", 2, "--batch-size", 4)
    for recipe in ("coop", "cocoop", "gopro"):
        done = promptkit("train", recipe, "--data", images, *own, "--out", recipe)
        assert done.status == 0, done.err
        assert "learned nothing" not in done.err
    done = promptkit("eval", "coop", "cocoop", "gopro", "--split", "test", "--json", "figures.json", "--workers", 0)
    assert done.status == 0, done.err
    assert "cartoon" in done.out


def test_without_transformers_it_says_what_to_install(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("bert", hf_pooler_type="cls_pooler")
    monkeypatch.setattr("open_clip.hf_model.transformers", None)
    with pytest.raises(BackboneError, match="needs transformers") as caught:
        load_openclip(f"local-dir:{folder}", "none")
    assert caught.value.hint == "pip install transformers"
