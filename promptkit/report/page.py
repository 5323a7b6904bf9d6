"""The report: one HTML file that asks for nothing else, by Jinja2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from promptkit.report import plots
from promptkit.report.answers import Answers, Share, by_class, by_domain, confused_pairs, reliability
from promptkit.report.content import RunPart, versions
from promptkit.report.gallery import KINDS, gallery

MOST_MATRICES = 6


@dataclass(frozen=True)
class Subject:
    """What a page is about."""

    title: str
    runs: dict[str, Path]
    answers: Sequence[Answers]
    tables: str = ""
    statistics: str = ""
    """Of a bench, as HTML."""
    figures: Sequence[str] = ()
    """Of a bench, as SVG."""


def template(name: str) -> Any:
    """Of Jinja2, by its file."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("promptkit", "templates/report"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    ).get_template(name)


def render(subject: Subject, parts: Sequence[RunPart]) -> str:
    """The page. What a bench has, tables and figures, stands first."""
    several = subject.answers
    shares = {answers.run: by_domain(answers) for answers in several}
    shown = gallery(several) if several else []
    rendered: str = template("report.html.jinja").render(
        subject=subject,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        parts=parts,
        several=several,
        curves=plots.curves({part.name: part.log for part in parts if part.log}),
        domains=plots.domains(shares) if shares else "",
        shares=shares,
        errors={answers.run: reliability([answers])[3] for answers in several},
        classes=_classes(several),
        matrices=[
            (answers.run, plots.confusion_matrix(answers, f"confusion{number}"), confused_pairs(answers))
            for number, answers in enumerate(several[:MOST_MATRICES])
        ],
        reliability=plots.reliability_diagram(several) if several else "",
        gallery=shown,
        kinds=[kind for kind in KINDS if any(one.kind == kind for one in shown)],
        runs=list(dict.fromkeys(one.run for one in shown)),
        domain_names=sorted({one.domain for one in shown}),
        labels=sorted({one.label for one in shown}),
        versions=versions(),
    )
    return rendered


def _classes(several: Sequence[Answers]) -> list[dict[str, Any]]:
    """A row for each class: its name, how many pictures, and the share of each run, None where it has none."""
    found: Mapping[str, Mapping[str, Share]] = {answers.run: by_class(answers) for answers in several}
    names = sorted({name for own in found.values() for name in own})
    return [
        {
            "name": name,
            "n": max(own[name].n for own in found.values() if name in own),
            "shares": [own[name].share if name in own else None for own in found.values()],
        }
        for name in names
    ]
