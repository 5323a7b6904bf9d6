"""Tables in five formats, each read back by what reads it."""

import csv
import io
import re
from html.parser import HTMLParser

from rich.console import Console

from promptkit.experiments.formats import Table, csv_, html_, latex, markdown, rich_table

ODD = r"a_b & c | <d> 50 % #1 {x} \y ~ ^ $ *z* `q`"
TABLE = Table(
    f"title {ODD}",
    ("data set", "figure", "coop", ODD),
    (("DTD", "base", "79.44 ± 0.10", "80.00"), (ODD, "new", "-1.00", "+2.00")),
    2,
    frozenset({(0, 3), (1, 2)}),
)


def test_csv_reads_back_and_marks_nothing() -> None:
    rows = list(csv.reader(io.StringIO(csv_([TABLE, TABLE]))))
    assert rows[0] == ["table", *TABLE.columns]
    assert rows[1:] == 2 * [[TABLE.title, *row] for row in TABLE.rows]


def test_html_reads_back_with_the_best_strong() -> None:
    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.cells: list[str] = []
            self.strong: list[str] = []
            self.caption = ""

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open.append(tag)
            if tag in ("td", "th"):
                self.cells.append("")

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            if "caption" in self.open:
                self.caption += data
            elif {"td", "th"} & set(self.open):
                self.cells[-1] += data
                self.strong += [data] * ("strong" in self.open)

    reader = Reader()
    reader.feed(html_([TABLE]))
    assert not reader.open
    assert reader.caption == TABLE.title
    assert reader.cells == [*TABLE.columns, *TABLE.rows[0], *TABLE.rows[1]]
    assert reader.strong == ["80.00", "-1.00"]


def test_markdown_has_as_many_cells_in_every_row() -> None:
    title, blank, *lines = markdown([TABLE]).splitlines()
    assert blank == ""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert {len(row) for row in rows} == {4}
    assert [cell.strip() for cell in rows[1]] == [":---", ":---", "---:", "---:"]
    plain = [
        re.sub(r"\\([\\`*_|\[\]~])", r"\1", cell.strip())
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
        for cell in rows[3]
    ]
    assert plain[0] == ODD
    assert rows[2][3].strip() == "**80.00**"
    assert rows[3][2].strip() == "**-1.00**"
    assert "&lt;d&gt;" in title


def test_latex_is_balanced_and_escaped() -> None:
    text = latex([TABLE])
    bare = re.sub(r"\\[{}&%$#_]", "", text)
    depth = 0
    for letter in bare:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not set("#_") & set(bare)
    assert re.findall(r"\\begin{(\w+)}", text) == ["table", "tabular"]
    assert re.findall(r"\\end{(\w+)}", text) == ["tabular", "table"]
    lines = [line for line in bare.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") for line in lines] == [3, 3, 3]
    assert r"\textbf{80.00}" in text
    assert r"79.44 $\pm$ 0.10" in text
    assert r"\textbf{$-1.00$}" in text


def test_a_terminal_shows_every_text_as_it_is() -> None:
    screen = io.StringIO()
    Console(file=screen, width=300, force_terminal=True, color_system="standard").print(rich_table(TABLE))
    shown = screen.getvalue()
    assert ODD in re.sub(r"\x1b\[[\d;]*m", "", shown)
    assert "\x1b[1m80.00\x1b[0m" in re.sub(" +", "", shown)
