"""What `run.py --out ROWS.jsonl` wrote, as one table, and as a figure: `table.py ROWS.jsonl [--figure FILE.svg]`."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Line = tuple[str, str, str, str]
"""What was measured, plain, promptkit, and how many times that is."""


def lines(row: dict[str, Any]) -> Iterator[Line]:
    match row["table"]:
        case "text":
            for size, wall in row["packed_wall"].items():
                what = f"text tower, {row['C']} classes, {row['M']} context tokens, {size} pictures: s a picture"
                times = row["times_wall"][f"packed {size}"]
                yield what, f"{row['plain wall s a picture']:.3g}", f"{wall['s a picture']:.3g}", f"{times:.1f}"
                share = row["share_of_matmul"][f"packed {size}"]
                yield "  ms a class; us a token; of a matmul's rate", "", _joined(wall, share), ""
        case "low rank":
            what = f"CLIP-LoRA's text, {row['B']} pictures, {row['C']} classes: CPU s, plain once for each picture"
            plain, packed = row["B"] * row["plain cpu s"], row["packed cpu s"]
            yield what, f"{plain:.3g}", f"{packed:.3g}", f"{row['loop_times']['cpu']:.1f}"
        case "steps":
            for side, name in (("step", "step"), ("cached", "step on cached features")):
                what = f"{row['recipe']}, {row['B']} pictures, {row['C']} classes, {name}: CPU s"
                times = row[f"{side} times (cpu)"]
                yield what, f"{row['plain cpu s']:.3g}", f"{row[f'{side} cpu s']:.3g}", f"{times:.1f}"
        case "memory":
            what = f"{row['recipe']}, a step's memory above the model's: MB"
            yield what, f"{row['plain MB']:.0f}", f"{row['step MB']:.0f}", f"{row['times']:.1f}"
        case "budget":
            what = f"text of {row['B']} pictures, {row['C']} classes, --memory-gb {row['memory_gb']:g}: peak GB; s"
            yield what, "", f"{row['peak GB']:.2f}; {row['s']:.0f}", ""
        case "views":
            sides = (f"{row[f'{side} views/s']:.0f}" for side in ("torchvision", "promptkit"))
            yield f"view {row['view']!r}, beside torchvision: views/s", *sides, f"{row['times']:.1f}"
        case "eval":
            what = f"eval of {row['runs']} on {row['images']} pictures, again: s"
            times = row["second times (wall)"]
            yield what, f"{row['no cache wall s']:.3g}", f"{row['second wall s']:.3g}", f"{times:.1f}"
        case "store":
            size = f"{row['rows']} rows, {row['MB']:.0f} MB"
            for what, plain, kept in (
                ("kept: MB/s", "write plain", "write store"),
                ("opened and read: MB/s", "read plain", "opened and in order"),
                ("read, opened before: MB/s", "read plain", "in order"),
                ("read at random: MB/s", "read plain", "at random"),
            ):
                sides = [row[f"{side}, MB/s"] for side in (plain, kept)]
                yield f"{size} {what}", *(f"{side:.0f}" for side in sides), f"{sides[1] / sides[0]:.2f}"
        case "largest":
            what = f"pictures of {row['C']} classes whose activations fit in {row['budget_GB']:g} GB"
            yield what, "", str(row["B"]), ""


def _joined(wall: dict[str, float], share: float) -> str:
    return f"{wall['ms a class']:.3g}; {wall['us a token']:.0f}; {share:.2f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up and share of the matmul rate over the number of classes, a line for each number of pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    text = [row for row in rows if row["table"] == "text" and row["M"] == 4]
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for panel, title in zip(panels, ("times plain", "share of a matmul's rate", "us a token"), strict=True):
        for size in text[0]["packed_wall"]:
            y = {
                "times plain": [row["times_wall"][f"packed {size}"] for row in text],
                "share of a matmul's rate": [row["share_of_matmul"][f"packed {size}"] for row in text],
                "us a token": [row["packed_wall"][size]["us a token"] for row in text],
            }[title]
            panel.plot([row["C"] for row in text], y, marker="o", label=f"B = {size}")
        panel.set(xscale="log", xlabel="classes", title=title, ylim=(0, None))
    panels[0].legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    table = Table("measured", "plain", "promptkit", "times")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        for line in lines(row):
            table.add_row(*line)
    Console(width=None if Console().is_terminal else 140).print(table)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
