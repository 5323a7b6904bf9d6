"""A table, and how it becomes text: markdown, LaTeX, CSV and HTML; and for a terminal."""

import html
import re
from collections.abc import Callable, Iterable, Sequence
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
    for number, cells in enumerate(_cells(table, escape, "[bold]{}[/]")):
        last = number + 1 == len(table.rows) or table.rows[number + 1][0] != table.rows[number][0]
        shown.add_row(*cells, end_section=number in table.parts or (last and table.labels > 1))
    return shown


def markdown(tables: Sequence[Table]) -> str:
    """GitHub's tables."""

    def clean(text: str) -> str:
        return html.escape(re.sub(r"([\\`*_|\[\]~])", r"\\\1", " ".join(text.split())), quote=False)

    texts = []
    for table in tables:
        sides = [":---" if number < table.labels else "---:" for number in range(len(table.columns))]
        lines = [map(clean, table.columns), sides, *_cells(table, clean, "**{}**")]
        texts.append(f"{clean(table.title)}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(texts)


def latex(tables: Sequence[Table]) -> str:
    """Table environments that need no package."""

    def clean(text: str) -> str:
        if re.fullmatch(r"[+-][\d.]+", text):
            return f"${text}$"
        return "".join(LATEX.get(letter, letter) for letter in text)

    def line(cells: Iterable[str]) -> str:
        return " & ".join(cells) + r" \\" + "\n"

    texts = []
    for table in tables:
        places = "l" * table.labels + "r" * (len(table.columns) - table.labels)
        head, rows = line(map(clean, table.columns)), map(line, _cells(table, clean, r"\textbf{{{}}}"))
        texts.append(
            f"\\begin{{table}}\n\\caption{{{clean(table.title)}}}\n\\begin{{tabular}}{{{places}}}\n"
            f"\\hline\n{head}\\hline\n{''.join(rows)}\\hline\n\\end{{tabular}}\n\\end{{table}}\n"
        )
    return "\n".join(texts)


def html_(tables: Sequence[Table]) -> str:
    """Table elements, to be put into a page."""

    def line(cells: Iterable[str], element: str) -> str:
        return "<tr>" + "".join(f"<{element}>{cell}</{element}>" for cell in cells) + "</tr>"

    texts = []
    for table in tables:
        head = line(map(html.escape, table.columns), "th")
        rows = [line(cells, "td") + "\n" for cells in _cells(table, html.escape, "<strong>{}</strong>")]
        texts.append(
            f"<table>\n<caption>{html.escape(table.title)}</caption>\n<thead>{head}</thead>\n"
            f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n"
        )
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


def _cells(table: Table, clean: Callable[[str], str], strong: str) -> list[list[str]]:
    """The texts of every row, the best as `strong` has it."""
    return [
        [strong.format(clean(cell)) if (number, place) in table.best else clean(cell) for place, cell in enumerate(row)]
        for number, row in enumerate(table.rows)
    ]
