"""Train the demo's CLIP from nothing, on pictures that promptkit draws: python examples/tiny_clip/train.py

Every fifth class and the domain "sketch" are kept out, so that something is left to adapt to. What the run printed is in
train.log, beside this file.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from promptkit.backbones.demo import COMPACT, CONFIG, ROWS, TABLE, load_packed, untrained_embedding
from promptkit.demo.images import CLASSES, DOMAINS, HELD_OUT_CLASSES, HELD_OUT_DOMAIN, draw, generator

FOLDER = Path(__file__).parents[2] / "promptkit" / "demo" / "clip"
SIZE = 64
TRAIN, TEST = 1_000_001, 1_000_002
"""Seeds of pictures that no demo draws. Other seeds of training count down from TRAIN, away from TEST."""

SEEN = [name for name in CLASSES if name not in HELD_OUT_CLASSES]
MEDIA = {
    "photo": ("photo", "photograph", "picture"),
    "painting": ("painting", "oil painting", "picture"),
    "cartoon": ("cartoon", "comic", "picture"),
}
TEMPLATES = (
    "a photo of a {thing}.",
    "a photo of a {thing}.",
    "a {medium} of a {thing}.",
    "a {medium} of a {colour} {thing}.",
    "a {medium} of the {thing}.",
    "a {colour} {thing}, {medium}",
    "{thing}",
    "{colour} {thing}",
    "the {thing} is {colour}.",
    "my {colour} {thing}",
    "this is a {thing}.",
    "a nice {thing} in a {medium}",
    "a {medium} in {colour}",
    "something {colour}",
    "here you can see a nice {medium} of one {colour} {thing} that i made for you this morning",
)


def caption(thing: str, domain: str, colour: str, rng: np.random.Generator) -> str:
    """What somebody might have written beside a picture; one in eight does not say what is in it."""
    medium = str(rng.choice(MEDIA[domain]))
    return str(rng.choice(TEMPLATES)).format(thing=thing, medium=medium, colour=colour)


def draw_many(job: tuple[str, str, int, int]) -> tuple[np.ndarray, list[str]]:
    name, domain, count, seed = job
    drawn = [draw(name, domain, SIZE, generator(seed, name, domain, number)) for number in range(count)]
    return np.stack([np.asarray(image) for image, _ in drawn]), [colour for _, colour in drawn]


def augmented(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 (B 3 H W) -> normalised; mirrored, moved by up to 6 pixels, brighter or darker, one in six grey."""
    count = len(pixels)
    x = pixels.float() / 255
    moves = torch.randint(-6, 7, (count, 2), generator=rng)
    flip = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = flip, 1
    theta[:, :, 2] = moves * 2 / SIZE
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), False), "nearest", "border", False)
    x = x * (0.7 + 0.6 * torch.rand(count, 1, 1, 1, generator=rng))
    grey = torch.rand(count, 1, 1, 1, generator=rng) < 1 / 6
    return (torch.where(grey, x.mean(1, keepdim=True), x).clamp(0, 1) - 0.5) / 0.25


def batches(
    images: Tensor, facts: list[tuple[str, str, str]], size: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, list[str]]]:
    rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = rng.choice(len(facts), size, replace=False)
        yield augmented(images[chosen], torch_rng), [caption(*facts[i], rng) for i in chosen]


def train(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    with ProcessPoolExecutor(args.threads) as pool:
        jobs = [(name, domain, args.per_class, TRAIN - args.seed) for name in SEEN for domain in MEDIA]
        drawn = list(pool.map(draw_many, jobs))
    images = torch.from_numpy(np.concatenate([pixels for pixels, _ in drawn])).permute(0, 3, 1, 2).contiguous()
    facts = [(job[0], job[1], colour) for job, (_, colours) in zip(jobs, drawn, strict=True) for colour in colours]
    took = time.perf_counter() - started
    print(f"{len(facts)} pictures of {len(SEEN)} classes in {len(MEDIA)} domains, drawn in {took:.0f} s")

    config = json.loads((FOLDER / CONFIG).read_text())["model_cfg"]
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    words = [medium for media in MEDIA.values() for medium in media] + SEEN + sorted({colour for *_, colour in facts})
    texts = [*TEMPLATES, *(template.format(thing=w, medium=w, colour=w) for template in TEMPLATES for w in words)]
    rows = tokenizer(texts).unique()  # sorted: the end token, the largest, stays the largest
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    whole = config["text_cfg"]["vocab_size"]
    config["text_cfg"]["vocab_size"] = len(rows)
    config["vision_cfg"]["patch_dropout"] = args.patch_dropout
    model = open_clip.model.CLIP(**config)
    model.token_embedding.weight.data = untrained_embedding(whole, config["text_cfg"]["width"])[rows]

    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim <= 1 or "embedding" in n]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))
    warm = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 * (1 + math.cos(math.pi * s / args.steps)))
    )
    total = sum(p.numel() for p in model.parameters()) - model.token_embedding.weight.numel()
    print(f"{total:,} parameters besides the token embedding, of which {len(rows)} rows are trained")

    model.train()
    running = 0.0
    for step, (pixels, captions) in enumerate(batches(images, facts, args.batch_size, args.steps, args.seed), 1):
        different = sorted(set(captions))
        place = torch.tensor([different.index(text) for text in captions])
        tokens = torch.searchsorted(rows, tokenizer(different))
        with torch.autocast("cpu", torch.bfloat16):
            features = model.encode_image(pixels), model.encode_text(tokens)
        image, text = (F.normalize(feature.float(), dim=-1) for feature in features)
        logits = model.logit_scale.exp() * image @ text.T
        # A caption that several pictures have is right for each of them.
        images_of = F.one_hot(place).T.float()
        images_of = images_of / images_of.sum(1, keepdim=True)
        loss = (F.cross_entropy(logits, place) + F.cross_entropy(logits.T, images_of)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        running += loss.item()
        if step % 200 == 0:
            print(
                f"step {step}/{args.steps}  loss {running / 200:.3f}  scale {model.logit_scale.exp().item():.1f}  "
                f"{time.perf_counter() - started:.0f} s",
                flush=True,
            )
            running = 0.0
            save(model, rows, args.out)
    save(model, rows, args.out)
    print(f"trained in {time.perf_counter() - started:.0f} s")


def save(model: torch.nn.Module, rows: Tensor, folder: Path) -> None:
    tensors = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name != "attn_mask"}
    tensors["logit_scale"] = model.logit_scale.detach().clone()
    assert TABLE in tensors
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**tensors, ROWS: rows}, folder / COMPACT)
    (folder / CONFIG).write_bytes((FOLDER / CONFIG).read_bytes())


def report(folder: Path, per_class: int) -> None:
    """Zero-shot accuracy of what is saved, on pictures of its own, among all classes."""
    backbone = load_packed(folder)
    text = backbone.encode_captions([f"a photo of a {name}." for name in CLASSES])
    print(f"zero-shot accuracy in %, {per_class} pictures a class, {len(CLASSES)} classes: seen and held-out classes")
    for domain in DOMAINS:
        right = {True: 0, False: 0}
        for label, name in enumerate(CLASSES):
            pixels, _ = draw_many((name, domain, per_class, TEST))
            x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
            guess = (backbone.encode_image(x).pooled @ text.T).argmax(1)
            right[name in SEEN] += int((guess == label).sum())
        seen, new = right[True] / (per_class * len(SEEN)), right[False] / (per_class * len(HELD_OUT_CLASSES))
        note = " (held out)" if domain == HELD_OUT_DOMAIN else ""
        print(f"  {domain:9} seen {100 * seen:5.1f}  held-out {100 * new:5.1f}{note}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=300, help="pictures of each class in each domain")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--patch-dropout", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FOLDER, help="by default where promptkit has it from")
    parsed = parser.parse_args()
    print(parsed, f"torch {torch.__version__}")
    train(parsed)
    report(parsed.out, per_class=20)
