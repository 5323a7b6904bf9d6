import base64
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

# Tests run side by side, one on each core. Said before torch is loaded, and to the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

# The same examples in every run, and no verdict that depends on how busy the machine is.
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


LONG = {
    *("test_demo", "test_docs", "test_wheels", "test_jobs", "test_cluster", "test_benchmarks", "test_compile"),
    *("test_bench", "test_notebook", "test_install"),
}
"""The files with the longest tests. They begin first, so that at the end no core waits for one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONG)


def pytest_collectstart() -> None:
    """Load other packages first: what a module whose shapes are checked imports is compiled anew in every process, since
    jaxtyping looks for all bytecode under a name of its own meanwhile."""
    import albumentations  # noqa: F401
    import open_clip  # noqa: F401


@dataclass
class Finished:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of its own for each test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PROMPTKIT_CACHE", str(folder))
    return folder


@pytest.fixture
def promptkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command in this process, in a folder of its own: promptkit("train", "coop", ...)."""
    from promptkit.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*words: object) -> Finished:
        monkeypatch.setattr(sys, "argv", ["promptkit", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return Finished(int(exit_.value.code or 0), captured.out, captured.err)

    return run


@dataclass
class Environment:
    """A virtual environment of its own. It sees the packages of the running one, but neither what is installed there in
    editable form nor PYTHONPATH: a .pth file adds folders, and the .pth files in those are not read."""

    folder: Path

    def __post_init__(self) -> None:
        venv.create(self.folder, with_pip=False)
        self.add(*(path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")))

    @property
    def packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def add(self, *paths: str | Path) -> None:
        with (self.packages / "outer.pth").open("a") as file:
            file.writelines(f"{path}\n" for path in paths)

    @property
    def variables(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"NO_ALBUMENTATIONS_UPDATE": "1"}

    def python(self, *words: object, cwd: Path, **variables: str) -> Finished:
        words = (self.folder / "bin/python", "-P", *map(str, words))
        done = subprocess.run(words, cwd=cwd, env=self.variables | variables, capture_output=True, text=True)
        return Finished(done.returncode, done.stdout, done.stderr)

    def warm(self, folder: Path) -> "WarmProcess":
        """Commands forked from a process of this environment, with what is installed there now."""
        return WarmProcess(folder, self.folder / "bin/python", self.variables)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"))


class WarmProcess:
    """Forks commands, or other code, from a process that has imported all that they need."""

    def __init__(
        self, folder: Path, python: str | Path = sys.executable, variables: dict[str, str] | None = None
    ) -> None:
        self.folder, self.count = folder, 0
        variables = variables or os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            [python, "-P", "-c", Path(__file__).with_name("warm.py").read_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def __enter__(self) -> "WarmProcess":
        return self

    def __exit__(self, *reason: object) -> None:
        self.process.communicate(timeout=60)

    def __call__(
        self, *words: object, cwd: Path, code: str = "", each: Sequence[dict[str, str]] = ({},)
    ) -> list[Finished]:
        """Side by side, one process for each dict of environment variables.

        Code finds what `warm.py` imports and defines.
        """
        tasks = []
        for variables in each:
            self.count += 1
            tasks.append(
                {
                    "words": ["promptkit", *map(str, words)],
                    "cwd": str(cwd),
                    "code": code,
                    "variables": {**os.environ, **variables},
                    "out": str(self.folder / f"{self.count}.out"),
                    "err": str(self.folder / f"{self.count}.err"),
                }
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(tasks) + "\n")
        self.process.stdin.flush()
        statuses = json.loads(self.process.stdout.readline())
        return [
            Finished(status, Path(task["out"]).read_text(), Path(task["err"]).read_text())
            for status, task in zip(statuses, tasks, strict=True)
        ]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmProcess]:
    with WarmProcess(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture(scope="session")
def figures() -> Callable[[Path], dict[tuple[object, ...], object]]:
    """The scores of every result below a folder."""
    from promptkit.experiments.results import read_results

    return lambda folder: {result.key: result.scores for result in read_results([folder])}


@pytest.fixture(scope="session")
def result() -> Callable[..., Any]:
    """A result of an accuracy, with some other fields: result(0.75, learner="gopro", seed=2)."""
    from promptkit.experiments.results import Result
    from promptkit.metrics import Scores

    def make(accuracy: float, **others: Any) -> Result:
        metrics = dict.fromkeys(("macro_accuracy", "top5", "macro_f1"), accuracy) | {"ece": 1 - accuracy}
        metrics |= {name: others.pop(name) for name in list(others) if name in metrics or name == "kappa"}
        about = {
            "protocol": "base-to-new",
            "learner": "coop",
            "dataset": "dtd",
            "title": "DTD",
            "domain": "all",
            "recipe": "coop",
            "settings": {},
            "classes": "base",
            "seed": 1,
            "shots": 16,
            "split": "published",
            "source": "",
            "backbone": "ViT-B-16",
            "weights": "openai",
            "template": "",
            "packages": {"clip-promptkit": "0.1.0", "torch": "2.7.0"},
            "fingerprint": "f" * 64,
            "trained_on": "a" * 64,
            "tested_on": "b" * 64,
            "run": "runs/one",
        }
        scores = Scores({"accuracy": accuracy, **metrics}, per_class=(accuracy, None), n=50)
        return Result(**{**about, **others}, scores=scores)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
        # One that was forked holds the driver's pipes open, and Playwright would wait for ever.
        for child in multiprocessing.active_children():
            child.kill()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains, four classes, eight pictures each."""
    from promptkit.testing import write_images

    return write_images(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def train(promptkit: Command, images: Path) -> Command:
    """Train a recipe for two epochs on the tiny backbone: train("coop", "--out", "run", ...)."""

    def run(recipe: str, *words: object) -> Finished:
        tiny = ("--backbone", "tiny", "--weights", "none", "--workers", "0")
        return promptkit("train", recipe, "--data", images, *tiny, "--epochs", 2, "--shots", 4, *words)

    return run


@pytest.fixture
def no_file() -> Callable[[Path, str], Path]:
    """Puts something in a file's place that can't be read as one: a fifo, folder, device, broken link, or a huge file."""

    def make(path: Path, kind: str) -> Path:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "huge":
            with path.open("wb") as file:
                file.truncate(2**40)
        else:
            path.symlink_to({"device": "/dev/zero", "broken link": "nowhere"}[kind])
        return path

    return make


COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """What the client asks for to make a repository, commit files of ours, and fetch one."""

    repositories: ClassVar[dict[str, dict[str, bytes]]]
    refuses = 0
    """A status that every request is answered with."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def say(self, content: object, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refuses:
            self.say({"error": "no"}, self.refuses)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories.setdefault(name, {})
            self.say({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self.say({"files": files})
        else:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self.say({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/datasets")
        _, org, name, resolve, *rest = [*path.split("/"), "", "", ""]
        files = self.repositories.get(f"{org}/{name}")
        file = "/".join(part for part in rest[1:] if part)
        if self.refuses:
            self.say({"error": "no"}, self.refuses)
        elif files is None or resolve != "resolve":
            self.answer(404, b"", X_Error_Code="RepoNotFound")
        elif file not in files:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            etag = hashlib.sha256(files[file]).hexdigest()[:40]
            self.answer(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    class Own(Hub):
        repositories: ClassVar = {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_for_a_test")
    yield Own
    server.shutdown()
    server.server_close()
