"""Figures as SVG, by matplotlib, in the colours of the page: what is drawn in INK follows its text."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import numpy as np

from promptkit.report.answers import Answers, Share, confusion, reliability

INK = "#010203"
"""Stands for the page's text colour, light or dark."""
SERIES = ("#3b82c4", "#e07b39", "#4aa564", "#a86bc9", "#c94f5d", "#8f7b57", "#d977b0", "#7a8691")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "promptkit",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
MOST_POINTS = 2000


P = ParamSpec("P")


def _styled(draw: Callable[P, str]) -> Callable[P, str]:
    """In STYLE from the first line to the last: matplotlib colours a text when it is added."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def _figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """A figure of matplotlib, without its pyplot, which would ask for a display."""
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def to_svg(figure: Any, name: str, title: str) -> str:
    """The element, scaled to the page, its ids told from those of other figures by `name`."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(STYLE):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'(?<=<svg )(.*?)width="[^"]*"', r"\1", re.sub(r'(?<=<svg )height="[^"]*"', "", text, count=1), count=1
    )
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return text.replace(INK, "currentColor")


@_styled
def curves(logs: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A panel for each figure of the logs, a line for each run."""
    left_out = {"epoch", "lr", "images", "unreadable", "seconds", "step", "grad_norm"}
    terms = list(dict.fromkeys(name for log in logs.values() for row in log for name in row if name not in left_out))
    terms = [
        name for name in terms if any(isinstance(row.get(name), float | int) for log in logs.values() for row in log)
    ]
    if not terms:
        return ""
    terms.sort(key=lambda name: name == "val_accuracy")
    columns = min(3, len(terms))
    rows = -(-len(terms) // columns)
    figure, axes = _figure(2.6 * columns + 0.6, 2.2 * rows + 0.3, columns, rows)
    for axis, term in zip(axes, terms, strict=False):
        for colour, (run, log) in zip(_colours(len(logs)), logs.items(), strict=True):
            points = [(row["epoch"], row[term]) for row in log if term in row and "epoch" in row]
            if points:
                marker = "o" if len(points) < 12 else ""
                axis.plot(*zip(*points, strict=True), color=colour, label=run, marker=marker, markersize=3)
        axis.set_title("validation accuracy" if term == "val_accuracy" else term, fontsize=9)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[len(terms) :]:
        axis.set_visible(False)
    if len(logs) > 1:
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=min(4, len(logs))
        )
    return to_svg(figure, "curves", "Learning curves")


@_styled
def domains(shares: Mapping[str, Mapping[str, Share]]) -> str:
    """Accuracy of each run on each domain, with intervals."""
    names = list(dict.fromkeys(domain for own in shares.values() for domain in own))
    figure, (axis,) = _figure(5.6, 0.5 + 0.22 * len(names) * (len(shares) + 1))
    height = 0.8 / len(shares)
    for number, (colour, (run, own)) in enumerate(zip(_colours(len(shares)), shares.items(), strict=True)):
        places = [names.index(domain) + (number - (len(shares) - 1) / 2) * height for domain in own]
        mean = np.array([100 * one.share for one in own.values()])
        ends = np.array([[100 * (one.share - one.low), 100 * (one.high - one.share)] for one in own.values()]).T
        axis.errorbar(mean, places, xerr=ends.clip(0), fmt="o", markersize=4, color=colour, label=run, capsize=2)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("accuracy, %")
    axis.grid(axis="x", alpha=0.2, color=INK)
    if len(shares) > 1:
        figure.legend(loc="outside lower center", frameon=False, ncols=min(4, len(shares)))
    return to_svg(figure, "domains", "Accuracy by domain")


@_styled
def confusion_matrix(answers: Answers, name: str, most: int = 40) -> str:
    """Shares of each class's pictures; the classes that are confused most, where there are many."""
    counts = confusion(answers)
    totals = counts.sum(1)
    wrong = counts.sum(1) + counts.sum(0) - 2 * counts.diagonal()
    shown = np.flatnonzero((totals > 0) | (counts.sum(0) > 0))
    if len(shown) > most:
        shown = np.sort(shown[np.argsort(-wrong[shown], kind="stable")[:most]])
    shares = counts[np.ix_(shown, shown)] / np.maximum(1, totals[shown])[:, None]
    side = 1.6 + 0.16 * len(shown)
    figure, (axis,) = _figure(side, side)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    names = [answers.names[place] for place in shown]
    axis.set_xticks(range(len(shown)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(len(shown)), names, fontsize=7)
    axis.set_xlabel("taken for")
    axis.set_ylabel("class")
    return to_svg(figure, name, "Confusion matrix")


@_styled
def reliability_diagram(several: Sequence[Answers]) -> str:
    """Accuracy over confidence, with the expected calibration error of each run."""
    figure, (axis,) = _figure(4.2, 3.6)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    for colour, answers in zip(_colours(len(several)), several, strict=True):
        confidence, accuracy, count, error = reliability([answers])
        size = 8 + 120 * count / count.sum()
        axis.plot(confidence, accuracy, color=colour, linewidth=1, label=f"{answers.run}: ECE {100 * error:.1f} %")
        axis.scatter(confidence, accuracy, s=size, color=colour, alpha=0.7)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.set_xlabel("confidence (larger dots: more pictures)")
    axis.set_ylabel("accuracy")
    axis.legend(loc="upper left", frameon=False)
    return to_svg(figure, "reliability", "Reliability diagram")


@_styled
def feature_map(
    images: np.ndarray, texts: np.ndarray, classes: Sequence[str], kind: np.ndarray, what: str, name: str
) -> str:
    """Pictures (n 2), coloured by what they are (n), and the texts (C 2) of the classes."""
    groups = list(dict.fromkeys(kind.tolist()))
    figure, (axis,) = _figure(6, 5)
    from matplotlib import colormaps

    palette = SERIES if len(groups) <= len(SERIES) else [colormaps["turbo"](x) for x in np.linspace(0, 1, len(groups))]
    for colour, group in zip(palette, groups, strict=False):
        own = images[kind == group]
        axis.scatter(own[:, 0], own[:, 1], s=12, color=[colour], alpha=0.6, label=group, linewidths=0, rasterized=True)
    axis.scatter(texts[:, 0], texts[:, 1], marker="*", s=40, color=INK, linewidths=0)
    for place, word in zip(texts, classes, strict=True):
        axis.annotate(word, place, fontsize=7, xytext=(2, 2), textcoords="offset points")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"coloured by {what}; stars: class texts", fontsize=9)
    if len(groups) <= 10:
        figure.legend(loc="outside lower center", frameon=False, ncols=min(5, len(groups)))
    return to_svg(figure, name, f"Map of picture features by {what}")


def _colours(count: int) -> list[str]:
    return [SERIES[number % len(SERIES)] for number in range(count)]
