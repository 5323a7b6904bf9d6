"""`promptkit help`: what an error's code leads to."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import promptkit as package
from promptkit import errors
from promptkit.cli.help import sections

Command = Callable[..., "Finished"]

ROOT = Path(package.__file__).parents[1]


def test_every_kind_of_error_has_a_section_and_each_section_an_error() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PromptkitError)
    ]
    codes = [kind.code for kind in kinds if kind is not errors.PromptkitError]
    assert len(codes) == len(set(codes))
    assert set(codes) == set(sections())


def test_an_errors_code_leads_to_its_section(promptkit: Command) -> None:
    failed = promptkit("train", "gopro")
    (code,) = re.findall(r"^more:  promptkit help (\w+)$", failed.err, re.MULTILINE)
    done = promptkit("help", code.lower())
    assert done.status == 0
    assert "a setting that is wrong" in done.out
    assert "there is no data to train on" in done.out
    assert all(code in promptkit("help").out for code in sections())
    assert "no error code named 'E99'" in promptkit("help", "E99").err


def written(node: ast.AST) -> str:
    """A text of the sources, with … for what is filled in; empty for what is no text."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(written(value) or "…" for value in values)
        case ast.BinOp(left=left, right=right):
            return (written(left) or "…") + (written(right) or "…")
    return ""


def messages() -> Iterator[str]:
    for folder in (ROOT / "promptkit", ROOT / "plugins"):
        for path in folder.rglob("*.py"):
            yield from map(written, ast.walk(ast.parse(path.read_text())))


def test_the_messages_that_it_explains_are_those_of_the_program() -> None:
    real = {re.sub("…+", "…", message) for message in messages()}
    explained = re.findall(r"^- `([^`]+)`", re.sub(r"\n +", " ", "".join(sections().values())), re.MULTILINE)
    explained = [one for one in explained if not one.startswith(("promptkit ", "PROMPTKIT_"))]
    assert len(explained) > 30
    assert [one for one in explained if one not in real] == []
