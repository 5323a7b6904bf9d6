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
    examples = list((ROOT.parent / "examples" / "learners").glob("*/**/*.py"))
    assert plugins
    assert examples
    for path in plugins + examples:
        assert imports(path) <= set(promptkit.PUBLIC_MODULES), path
