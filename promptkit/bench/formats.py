"""A table, and how it becomes text: markdown, LaTeX, CSV and HTML; and for a terminal."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rich.markup import escape
from rich.table import Table as RichTable

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The first `labels` columns say what a row is about, the others hold numbers; `best` marks (row, column)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int
    best: frozenset[tuple[int, int]] = frozenset()
    parts: frozenset[int] = frozenset()
    """Rows that a line stands below, besides those where the first of several labels changes."""

    def trimmed(self) -> "Table":
        """Without the columns that are empty."""
        return self.without(
            *(name for number, name in enumerate(self.columns) if not any(row[number] for row in self.rows))
        )

    def without(self, *columns: str) -> "Table":
        """Without the columns of these names."""
        kept = [number for number, name in enumerate(self.columns) if name not in columns]
        return replace(
            self,
            columns=tuple(self.columns[number] for number in kept),
            rows=tuple(tuple(row[number] for number in kept) for row in self.rows),
            labels=sum(number < self.labels for number in kept),
            best=frozenset((row, kept.index(column)) for row, column in self.best),
        )


def rich_table(table: Table) -> RichTable:
    """A terminal's table, without its title. The best figures are bold, and a line stands between data sets."""
    shown = RichTable()
    for number, column in enumerate(table.columns):
        # What is too long goes on in the next line: names often differ at their end alone.
        shown.add_column(escape(column), justify="left" if number < table.labels else "right", overflow="fold")
    for number, row in enumerate(table.rows):
        cells = [f"[bold]{escape(cell)}[/]" if is_best else escape(cell) for cell, is_best in _marked(table, number)]
        last = number + 1 == len(table.rows) or table.rows[number + 1][0] != row[0]
        shown.add_row(*cells, end_section=number in table.parts or (last and table.labels > 1))
    return shown


def markdown(tables: Sequence[Table]) -> str:
    """GitHub's tables."""

    def clean(text: str) -> str:
        return html.escape(re.sub(r"([\\`*_|\[\]~])", r"\\\1", " ".join(text.split())), quote=False)

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    texts = []
    for table in tables:
        text = f"{clean(table.title)}\n\n" + line([clean(column) for column in table.columns])
        text += line([":---" if number < table.labels else "---:" for number in range(len(table.columns))])
        for number in range(len(table.rows)):
            text += line([f"**{clean(cell)}**" if best else clean(cell) for cell, best in _marked(table, number)])
        texts.append(text)
    return "\n".join(texts)


def latex(tables: Sequence[Table]) -> str:
    """Table environments that need no package."""

    def clean(text: str) -> str:
        if re.fullmatch(r"[+-][\d.]+", text):
            return f"${text}$"
        return "".join(LATEX.get(letter, letter) for letter in text)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\" + "\n"

    texts = []
    for table in tables:
        places = "l" * table.labels + "r" * (len(table.columns) - table.labels)
        text = f"\\begin{{table}}\n\\caption{{{clean(table.title)}}}\n\\begin{{tabular}}{{{places}}}\n\\hline\n"
        text += line([clean(column) for column in table.columns]) + "\\hline\n"
        for number in range(len(table.rows)):
            text += line(
                [rf"\textbf{{{clean(cell)}}}" if best else clean(cell) for cell, best in _marked(table, number)]
            )
        texts.append(text + "\\hline\n\\end{tabular}\n\\end{table}\n")
    return "\n".join(texts)


def html_(tables: Sequence[Table]) -> str:
    """Table elements, to be put into a page."""
    texts = []
    for table in tables:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
        text = f"<table>\n<caption>{html.escape(table.title)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        for number in range(len(table.rows)):
            cells = [
                f"<strong>{html.escape(cell)}</strong>" if best else html.escape(cell)
                for cell, best in _marked(table, number)
            ]
            text += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
        texts.append(text + "</tbody>\n</table>\n")
    return "\n".join(texts)


def csv_(tables: Sequence[Table]) -> str:
    """Tables as one, with the columns of all; the first holds their titles."""
    import pandas

    frames = [pandas.DataFrame(table.rows, columns=table.columns) for table in tables]
    titled = pandas.concat(frames, keys=[table.title for table in tables], names=["table"])
    return str(titled.reset_index("table").to_csv(index=False, lineterminator="\n"))


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": csv_,
    "html": html_,
}


def _marked(table: Table, number: int) -> list[tuple[str, bool]]:
    return [(cell, (number, column) in table.best) for column, cell in enumerate(table.rows[number])]
