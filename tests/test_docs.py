"""What docs/ says is so: its snippets run, its commands and settings exist, its links lead somewhere, nothing is left out."""

import html
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from filelock import FileLock

import promptkit as package
from promptkit import hooks
from promptkit.cli import app
from promptkit.cli.command import DefaultGroup
from promptkit.config import resolve
from promptkit.offered import LEARNERS
from promptkit.registry import KINDS, installed
from promptkit.settings import SLOTS, option_fields

Command = Callable[..., "Finished"]

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = ("cli.md", "settings.md", "learners.md")
PAGES = {str(path.relative_to(DOCS)): path for path in sorted(DOCS.rglob("*.md")) if path.name not in GENERATED}


def text(page: str) -> str:
    """A page with the files, or the marked sections of files, that it includes."""

    def included(match: re.Match[str]) -> str:
        content = (ROOT / match[1]).read_text()
        if match[2]:
            content = re.split(rf".*\[(?:start|end):{match[2]}\].*\n", content)[1]
        return content

    return re.sub(r'^--8<-- "([^":]+):?(\w*)"$', included, PAGES[page].read_text(), flags=re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_its_python_runs(page: str, train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "\n".join(blocks(page, "python"))
    if "runs/gopro" in code:
        assert train("gopro", "--out", "runs/gopro").status == 0
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    exec(compile(code, page, "exec"), module.__dict__)


def test_its_python_is_there() -> None:
    """So that a slip in `blocks` can't empty the test above."""
    examples = [page for page in PAGES if page.split("/")[0] in ("hooks", "components") and blocks(page, "python")]
    assert len(examples) >= len(KINDS) + 7


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """The page, and the words behind `promptkit`, of every command of ours: of the READMEs, too."""
    pages = {page: text(page) for page in PAGES}
    for path in (ROOT / "README.md", *ROOT.glob("plugins/*/README.md"), *ROOT.glob("examples/**/README.md")):
        pages[str(path.relative_to(ROOT))] = path.read_text()
    for page, content in pages.items():
        consoles = re.findall(r"^```console\n(.*?)^```", content, re.DOTALL | re.MULTILINE)
        for line in re.findall(r"^\$ (.*)$", "\n".join(consoles).replace("\\\n", ""), re.MULTILINE):
            for part in re.split(r" && ", line):
                words = shlex.split(part, comments=True)
                if "promptkit" in words and "pip" not in words:
                    yield page, words[words.index("promptkit") + 1 :]


def test_its_commands_parse() -> None:
    lines = list(command_lines())
    assert len(lines) > 20
    for page, words in lines:
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "commands"):
            rest = command.completed(rest) if isinstance(command, DefaultGroup) else rest
            assert rest[0] in command.commands, f"{page}: {words}"
            command = command.commands[rest.pop(0)]
        try:
            command.make_context(command.name, rest)
        except Exception as error:  # typer's own, in a module that it keeps to itself
            pytest.fail(f"{page}: {shlex.join(words)}: {error}")


def test_what_it_names_of_the_command_line_exists() -> None:
    """In a sentence a command may lack what it needs, but has no option that isn't there."""
    program: Any = typer.main.get_command(app)
    named = [(page, shown) for page in PAGES for shown in re.findall(r"`promptkit ([a-z][^`]+)`", text(page))]
    assert len(named) > 60
    for page, shown in named:
        command, words = program, shlex.split(shown)
        while hasattr(command, "commands") and words:
            words = command.completed(words) if isinstance(command, DefaultGroup) else words
            assert words[0] in command.commands, f"{page}: promptkit {shown}"
            command = command.commands[words.pop(0)]
        if "ignore_unknown_options" in command.context_settings:  # pip's are taken, too
            continue
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        unknown = {word.partition("=")[0] for word in words if word.startswith("--")} - options - {"--help"}
        assert not unknown, f"{page}: promptkit {shown}"


def test_open_clips_script_and_ours_give_the_same_probabilities(
    promptkit: Command, images: Path, tmp_path: Path
) -> None:
    """The page's script, and the command that takes its place, with a small model of random weights."""
    import open_clip
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    vision = {"image_size": 32, "patch_size": 8, "layers": 3, "width": 48, "head_width": 12}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 4, "layers": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    model = open_clip.create_model(f"local-dir:{tmp_path}")
    scaled = {**model.state_dict(), "logit_scale": torch.tensor(100.0).log()}
    save_file(scaled, tmp_path / "open_clip_model.safetensors")
    picture = tmp_path / "picture.jpg"
    Image.open(images / "photo/star/000.png").resize((50, 41)).save(picture)

    (script,) = blocks("open-clip.md", "text")
    named = script.replace('"ViT-B-32", pretrained="laion2b_s34b_b79k"', f'"local-dir:{tmp_path}"')
    names = {"open_clip": open_clip, "torch": torch, "Image": Image, "normalize": torch.nn.functional.normalize}
    exec(named.replace('"picture.jpg"', f'"{picture}"'), names)
    (line, *_) = [words for page, words in command_lines() if page == "open-clip.md"]
    done = promptkit(*line[: line.index("--backbone")], "--backbone", f"local-dir:{tmp_path}")
    assert done.status == 0, done.err
    cells = done.out.strip().split("\t")[1:]
    said = dict(zip(cells[::2], map(float, cells[1::2]), strict=True))
    assert [said["dog"], said["cat"]] == pytest.approx(names["probabilities"][0].tolist(), abs=2e-3)


def test_figures_stand_where_they_come_from() -> None:
    published = (ROOT / "promptkit/experiments/published.csv").read_text()
    for figure in re.findall(r"\b\d\d\.\d\d\b", text("reproduce.md")):
        assert f",{figure}\n" in published
    measured = (ROOT / "benchmarks/README.md").read_text()
    rows = re.findall(r"^\| `(?:coop|cocoop|gopro-reference|tpt)` .*$", text("which.md"), re.MULTILINE)
    figures = re.findall(r"\b\d\.\d\d+\b", " ".join(rows))
    assert len(figures) == 7
    assert [figure for figure in figures if f"| {figure} |" not in measured] == []


def test_a_version_is_the_same_wherever_it_stands() -> None:
    projects = [
        tomllib.loads(path.read_text())["project"]
        for path in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml"))
    ]
    (version,) = {project["version"] for project in projects}
    assert version == re.findall(r"^## \[(\d.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    major, minor, _ = version.split(".")
    for project in projects[1:]:
        assert f"clip-promptkit>={major}.{minor},<{major}.{int(minor) + 1}" in project["dependencies"]


def test_its_settings_exist() -> None:
    registry = installed()
    known = {entry.name for entry in registry}
    for recipe in registry.entries["recipe"]:
        for slot, values in resolve(registry, recipe).to_tables().items():
            known |= {f"{slot}.{name}" for name in values} if isinstance(values, dict) else set()
    for entry in registry:
        if hasattr(entry.value, "Options"):
            known |= {f"{entry.kind}.{option.name}" for option in option_fields(entry.value.Options)}
    slots = "data|backbone|train|test_views|learner|prompts|projector|views|loss"
    found = {
        match
        for page in PAGES
        for match in re.findall(rf"(?:`|--set )((?:{slots})\.\w+)(?==|`|\s)", PAGES[page].read_text())
    }
    assert len(found) > 20
    # The last are of the learners that the pages write, and CoOp's script.
    others = {"learner.safetensors", "loss.gamma", "loss.weight", "train.py"}
    assert found - known <= others


def test_every_hook_has_a_page() -> None:
    for hook in KINDS.values():
        page = text(f"hooks/{hook}.md")
        assert f"::: promptkit.hooks.{hook}\n" in page
        assert f"def {hook}(register):" in page
    assert {name for name in vars(hooks) if name.startswith("register_")} == set(KINDS.values())


def public() -> Iterator[tuple[str, str]]:
    """Where each public class and function is documented: its module, or the public one that hands it on; its name."""
    for path in package.PUBLIC_MODULES:
        module = importlib.import_module(path)
        for name in getattr(module, "__all__", vars(module)):
            value = getattr(module, name)
            if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            handed_on = hasattr(module, "__all__") and value.__module__ not in package.PUBLIC_MODULES
            if value.__module__ == path or handed_on:
                yield path, name


def test_everything_public_is_described() -> None:
    pages = "\n".join(path.read_text() for path in PAGES.values())
    described = set(re.findall(r"^::: ([\w.]+)$(?!\n    options: {members: false)", pages, re.MULTILINE))
    found = list(public())
    assert ("promptkit.components", "Loss") in found
    assert ("promptkit.testing", "check_recipe") in found
    assert [f"{path}.{name}" for path, name in found if not {path, f"{path}.{name}"} & described] == []
    for path in package.PUBLIC_MODULES:
        assert f"| `{path}` |" in PAGES["python.md"].read_text()


def test_its_links_lead_somewhere() -> None:
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page].read_text())]
    assert len(links) > 30
    for page, link in links:
        target = (DOCS / page).parent / link
        assert link.startswith("https://") or target.exists() or target in [DOCS / page for page in GENERATED], (
            f"{page}: {link}"
        )


def generator() -> Any:
    """The hook that makes pages."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    return generate


def test_the_page_of_settings_has_every_setting_with_its_range_and_flag() -> None:
    page = generator().settings()
    for slot, options in SLOTS.items():
        for option in option_fields(options):
            assert f"| `{slot}.{option.name}` |" in page
    assert "| `train.momentum` | float, at least 0, below 1 | `0.9` |  | momentum" in page
    assert "| `--backbone-dtype` |" in page


def test_the_page_of_learners_has_every_one_with_what_it_trains() -> None:
    """Counts are those of the papers: 3.55 million for MaPLe, 46 thousand for PromptSRC, 2,048 for KgCoOp's tokens."""
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)$", generator().learners(), re.MULTILINE)
    found = dict(rows)
    assert found.keys() == {*LEARNERS, "zeroshot"}
    assert "`prompts=maple` | 2023 | Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR |" in found["maple"]
    assert re.match(r" trained \| \d+\.\d\d \| 3,555,072 \|", found["maple"])
    assert "| 46,080 |" in found["promptsrc"]
    assert "| 2,048 | `prompts.ctx` |" in found["kgcoop"]
    assert "| 51,200 (512 a class) |" in found["taskres"]
    assert found["tpt"].startswith(" episodic |")
    measured = json.loads((ROOT / "benchmarks/zoo.json").read_text())["seconds"]
    assert {name for name, row in rows if re.match(r"[^|]*\| \d", row)} == measured.keys()


def test_the_command_lines_page_has_every_command_and_option() -> None:
    page = generator().command_line()

    def look_up(command: Any, path: str) -> None:
        section = page.partition(f"# `{path}`\n")[2].partition("\n#")[0] if path != "promptkit" else page
        assert section, path
        for name in (parameter.opts[0] for parameter in command.params):
            assert not name.startswith("-") or f"`{name}" in section, f"{path} {name}"
        for inner in getattr(command, "commands", {}).values():
            look_up(inner, f"{path} {inner.name}")

    look_up(typer.main.get_command(app), "promptkit")
    assert "..." not in page.partition("**Commands**")[2].partition("\n#")[0]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds, built once for all processes that test."""
    pytest.importorskip("zensical", reason="Zensical is not installed")
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "documentation"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            left_out = shutil.ignore_patterns("__pycache__", *GENERATED)
            shutil.copytree(DOCS, folder / "docs", ignore=left_out)
            shutil.copy(ROOT / "mkdocs.yml", folder)
            for name in ("promptkit", "plugins", "examples", "benchmarks"):
                (folder / name).symlink_to(ROOT / name)
            for words in ((folder / "docs/generate.py",), ("-m", "zensical", "build", "--strict", "--clean")):
                done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
                assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_the_site_is_whole_and_fetches_nothing(site: Path) -> None:
    pages = {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) == len(PAGES) + len(GENERATED)
    names = {path: set(re.findall(r'\bid="?([^" >]+)', page)) for path, page in pages.items()}
    for path, page in pages.items():
        assert not re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?https?:', page), path
        for link in map(html.unescape, re.findall(r'<a\b[^>]*\bhref="?([^" >]+)', page)):
            if re.match(r"https://|mailto:", link):
                continue
            target, _, name = link.partition("#")
            led = (path.parent / unquote(target)).resolve() if target else path
            assert led.exists(), f"{path.name}: {link}"
            assert not name or led not in names or unquote(name) in names[led] | {"__skip"}, f"{path.name}: {link}"
    everything = "".join(pages.values())
    missing = [f"{path}.{name}" for path, name in public() if f'id="{path}.{name}"' not in everything]
    assert missing == []
    # Shapes come through whole, "#" and all.
    prompts = html.unescape(re.sub(r"<[^>]+>", "", (site / "components/prompts.html").read_text()))
    assert 'vision() -> ImagePrompts | Float[Tensor, "J #B M V"] | None' in prompts


CUT = """[...document.querySelectorAll(".md-content :is(table, svg, img, pre)")].filter(part => {
  const box = part.getBoundingClientRect();
  for (let outer = part; outer; outer = outer.parentElement)
    if (["auto", "scroll"].includes(getComputedStyle(outer).overflowX)) return false;
  return box.width && box.right > innerWidth + 1;
}).map(part => part.outerHTML.slice(0, 80))"""


@pytest.mark.filterwarnings("ignore")
def test_the_site_is_read_from_its_folder(site: Path, browser: Any) -> None:
    said: list[str] = []

    def opened(scheme: str) -> Any:
        view = browser.new_page(color_scheme=scheme)
        view.on("console", lambda message: said.append(f"{view.url}: {message.text}"))
        view.on("pageerror", lambda error: said.append(f"{view.url}: {error}"))
        view.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        view.goto((site / "index.html").as_uri())
        return view

    for scheme, name in (("light", "default"), ("dark", "slate")):
        view = opened(scheme)
        assert view.evaluate("document.body.dataset.mdColorScheme") == name
    view.get_by_role("button", name="Search").first.click()
    view.get_by_placeholder("Search").first.fill("prompt encoder")
    view.get_by_text(re.compile(r"^\d+ results?$")).wait_for()
    # It was searched, and need not be read again for every page.
    empty = "var __index = {config: {lang: ['en'], separator: ' '}, items: []}"
    view.route("**/search.js", lambda route: route.fulfill(body=empty, content_type="text/javascript"))
    for path in sorted(site.rglob("*.html")):
        if path.name == "404.html":  # for servers: its links begin at their root
            continue
        view.goto(path.as_uri())
        for width in (360, 1280):
            view.set_viewport_size({"width": width, "height": 800})
            assert view.evaluate("document.documentElement.scrollWidth") <= width, path
            assert view.evaluate(CUT) == [], path
    assert said == []
