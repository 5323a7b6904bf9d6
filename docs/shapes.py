"""An extension of griffe, which reads our sources for mkdocstrings."""

import ast
from typing import Any

import griffe
import jaxtyping


class Shape(str):
    """The shape in an annotation. It begins with a blank, so that griffe can't parse it, and is shown without."""

    def __repr__(self) -> str:
        return f'"{self.strip()}"'


class Shapes(griffe.Extension):
    """Keeps the shapes in annotations: griffe takes "J #B M V" for the name J with a comment behind it."""

    def on_node(self, *, node: ast.AST, **_: Any) -> None:
        if not isinstance(node, ast.Module):
            return
        for inner in ast.walk(node):
            match inner:
                case ast.Subscript(
                    value=ast.Name(id=kind), slice=ast.Tuple(elts=[_, ast.Constant(value=str()) as shape])
                ):
                    if hasattr(jaxtyping, kind):
                        shape.value = Shape(f" {shape.value}")
