"""Writes the pages that are made from the code, before the site is built: `python docs/generate.py`."""

import json
import re
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import open_clip
import torch
import typer
from typer.cli import get_docs_for_click

from promptkit.backbones.openclip import OpenClipBackbone
from promptkit.build import build_learner
from promptkit.cli import app
from promptkit.components import Scene, TeacherRun
from promptkit.config import resolve
from promptkit.learner import Learner, Recipe
from promptkit.offered import LEARNERS
from promptkit.registry import SLOT_KINDS, Registry
from promptkit.settings import SLOTS, option_fields
from promptkit.testing import registered, tiny_backbone

ROOT = Path(__file__).parents[1]
CLASSES = 100
"""How many the trained parameters of all learners are counted with."""


def command_line() -> str:
    """Every command with its arguments and options, in Markdown."""
    root: Any = typer.main.get_command(app)
    keep_first_sentences(root)
    context = typer.Context(root, info_name="promptkit")
    return get_docs_for_click(obj=root, ctx=context, name="promptkit", title="Command line")


def settings() -> str:
    """Every setting of a run, with its type, range, default, flag and help, in Markdown."""
    lines = [
        "---\nhide: [toc]\n---\n",  # the tables need the room
        "# Settings",
        "",
        "`--set slot.field=value` sets any of them; those of components are listed by `promptkit show NAME`.",
    ]
    for slot, options in SLOTS.items():
        lines += [
            "",
            f"## {slot}",
            "",
            "| setting | type | default | flag | what it is |",
            "| --- | --- | --- | --- | --- |",
        ]
        for option in option_fields(options):
            flag = f"`--{(option.flag.name or option.name).replace('_', '-')}`" if option.flag else ""
            kind = option.type_name.replace("|", "\\|")
            lines.append(f"| `{slot}.{option.name}` | {kind} | `{option.default!r}` | {flag} | {option.help} |")
    return "\n".join(lines) + "\n"


def learners() -> str:
    """Every learner that is published with promptkit, as its recipe and a ViT-B/16 without weights say, in Markdown."""
    if str(ROOT / "plugins/zoo") not in sys.path:
        sys.path.insert(0, str(ROOT / "plugins/zoo"))
    entry_points = tomllib.loads((ROOT / "plugins/zoo/pyproject.toml").read_text())["project"]["entry-points"]
    measured = json.loads((ROOT / "benchmarks/zoo.json").read_text())
    setting = measured["setting"]
    lines = [
        "---\nhide: [toc]\n---\n",  # the table needs the room
        "# All learners",
        "",
        f"What each one trains is counted on ViT-B/16 with {CLASSES} classes; what is one's own is in brackets. A step is of "
        f"{setting['batch']} pictures and {setting['classes']} classes, without a cache, on {setting['backbone']} with "
        f"random weights: its processor time on {setting['machine']}, by `python benchmarks/zoo.py`. The packages' "
        "READMEs say where a learner differs from its released code.",
        "",
        "| recipe | kind | CPU s/step | parameters | trains | slots | year | paper |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    modules = [import_module(module) for module in entry_points["promptkit"].values()]
    with registered(modules, "clip-promptkit-zoo") as registry:
        for name, entry in sorted(registry.entries["recipe"].items()):
            if name in LEARNERS or name == "zeroshot":
                lines.append(_row(name, entry.value, registry, measured["seconds"].get(name)))
    return "\n".join(lines) + "\n"


def _row(name: str, recipe: Recipe, registry: Registry, seconds: float | None) -> str:
    learner = _on_zeros(name, registry, CLASSES)
    owners = dict.fromkeys(".".join(path.split(".")[:2]) for path, _ in learner.named_parameters())
    count = more = sum(p.numel() for p in learner.parameters())
    if learner.prompts.class_specific:
        more = sum(p.numel() for p in _on_zeros(name, registry, CLASSES + 1).parameters())
    each = f" ({more - count:,} a class)" if more > count else ""
    slots = [
        f"{field.name}={getattr(recipe, field.name)}"
        for field in fields(Recipe)
        if field.name in SLOT_KINDS and getattr(recipe, field.name) != field.default
    ]
    (year,) = re.findall(r"\d{4}", recipe.paper)[-1:] or [""]
    kind = learner.adapts or ("trained" if count else "zero-shot")
    paper = re.sub(r",? ?\d{4}", "", recipe.paper)
    cells = (
        f"`{name}`",
        kind,
        "" if seconds is None else f"{seconds:.2f}",
        f"{count:,}{each}",
        ", ".join(f"`{owner}`" for owner in owners) or "nothing",
        ", ".join(f"`{slot}`" for slot in slots),
        year,
        paper,
    )
    return f"| {' | '.join(cells)} |"


def _on_zeros(name: str, registry: Registry, classes: int) -> Learner:
    """A learner whose backbone has the shapes of a ViT-B/16, and zeros for weights."""
    config = resolve(registry, name)
    names = tuple(f"class {number}" for number in range(classes))
    teacher = resolve(registry, "zeroshot")
    run = TeacherRun(
        lambda: build_learner(teacher, registry, Scene(tiny_backbone(embed_dim=768), names), to_train=False)
    )
    said = {each: ["described"] for each in names}
    return build_learner(config, registry, Scene(_empty_backbone(), names, ("source",), said, run))


@cache
def _empty_backbone() -> OpenClipBackbone:
    sizes = open_clip.get_model_config("ViT-B-16")
    with torch.device("meta"):
        model = open_clip.model.CLIP(**sizes)
    model.to_empty(device="cpu")
    for tensor in model.state_dict().values():
        tensor.zero_()
    return OpenClipBackbone(model, open_clip.get_tokenizer("ViT-B-16"), "ViT-B-16", "none", sizes)


def keep_first_sentences(group: Any) -> None:
    """Typer cuts the summary of a command off at 45 letters."""
    for command in group.commands.values():
        command.short_help = (command.help or "").partition("\n")[0]
        if hasattr(command, "commands"):
            keep_first_sentences(command)


PAGES = {"cli.md": command_line, "settings.md": settings, "learners.md": learners}


if __name__ == "__main__":
    for page, make in PAGES.items():
        (Path(__file__).parent / page).write_text(make(), encoding="utf-8")
