"""The order of the layers that CONTRIBUTING draws: each module imports only from those above it."""

import ast
import re
from pathlib import Path

import promptkit

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"
"""It draws the layers, one a line; those of one line stand in their order, too."""

LAYERS = [
    name
    for line in re.findall(r"^    (\w[\w, ]*?)  +\S.*$", CONTRIBUTING.read_text(), re.M)
    for name in line.split(", ")
]

ROOT = Path(promptkit.__file__).parent


def layer(module: str) -> int:
    """The place of `promptkit.x.y` in the order: that of the folder or module x."""
    name = module.removeprefix("promptkit.")
    top = name.partition(".")[0]
    assert top in LAYERS, f"{module} belongs to no layer"
    return LAYERS.index(top)


def imports(path: Path) -> set[str]:
    """The modules of promptkit that a file imports, except for type checking alone."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                deeper = ROOT.parent / node.module.replace(".", "/") / name.name
                is_module = deeper.with_suffix(".py").exists() or deeper.is_dir()
                found.add(f"{node.module}.{name.name}" if is_module else node.module)
    return {name for name in found if name.startswith("promptkit.")}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_each_layer_imports_only_from_its_left() -> None:
    wrong = []
    modules = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(modules) > 20
    for path in modules:
        for imported in imports(path):
            if layer(imported) > layer(module_name(path)):
                wrong.append(f"{module_name(path)} imports {imported}")
    assert not wrong


def test_plugins_import_only_what_is_public() -> None:
    plugins = list((ROOT.parent / "plugins").glob("*/promptkit_*/*.py"))
    examples = list((ROOT.parent / "examples").glob("*/promptkit_*.py"))
    assert plugins
    assert examples
    for path in plugins + examples:
        assert imports(path) <= set(promptkit.PUBLIC_MODULES), path
        private = {
            node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        } - own_names(path)
        assert not {name for name in private if re.match("_[^_]", name)}, path


def own_names(path: Path) -> set[str]:
    """What a file itself sets or defines."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    stored = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_a_learner_of_the_zoo_is_short_and_stands_alone() -> None:
    modules = [path for path in (ROOT.parent / "plugins/zoo/promptkit_zoo").glob("*.py") if path.stem != "__init__"]
    assert len(modules) > 10
    for path in modules:
        assert len(path.read_text().splitlines()) <= 160, path
        assert "promptkit_zoo" not in path.read_text(), path
