"""The examples of serving: the service answers as the learner does, and refuses what it should."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

import promptkit as package

Command = Callable[..., "Finished"]
SERVE = Path(__file__).parents[1] / "examples/serve"


def loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"serve_{name}", SERVE / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    train("coop", "--out", "run")
    monkeypatch.setenv("RUN", str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def service(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where it answers."""
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    pytest.importorskip("fastapi", reason="FastAPI is not installed")
    server = uvicorn.Server(uvicorn.Config(loaded("app", monkeypatch).app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def ask(url: str, content: bytes | None = None) -> tuple[int, object]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["detail"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_service_answers_many_at_once(service: str, run: Path, images: Path) -> None:
    assert ask(f"{service}/health")[1] == {
        "run": str(run),
        "classes": ["circle", "cross", "square", "star"],
        "waiting": 0,
    }
    pictures = sorted(images.rglob("*.png"))[:24]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda path: ask(f"{service}/classify", path.read_bytes()), pictures))
    classifier = package.load(run, device="cpu")
    for (status, answer), expected in zip(answers, classifier(pictures), strict=True):
        assert status == 200
        assert [one["label"] for one in answer] == [one["label"] for one in expected]
        assert [one["score"] for one in answer] == pytest.approx([one["score"] for one in expected], abs=1e-5)
    assert ask(f"{service}/classify", b"no picture") == (
        415,
        "this is no JPEG, PNG, WebP or GIF picture, or a damaged one",
    )
    assert ask(f"{service}/classify", b"\0" * 10_000_001)[0] == 413
    assert ask(f"{service}/classify", pictures[0].read_bytes()[:200])[0] == 415


def test_the_page_classifies(run: Path, images: Path) -> None:
    """In a process of its own: Gradio leaves sockets and loops behind."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("Gradio is not installed")
    code = (
        "import json, sys; from PIL import Image; import page; print(json.dumps(page.page.fn(Image.open(sys.argv[1]))))"
    )
    environment = {
        **os.environ,
        "GRADIO_ANALYTICS_ENABLED": "False",
        "PYTHONPATH": os.pathsep.join([str(SERVE), *sys.path]),
    }
    words = [sys.executable, "-c", code, images / "photo/star/000.png"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    expected = {one["label"]: one["score"] for one in package.load(run, device="cpu")(images / "photo/star/000.png")}
    assert answers == pytest.approx(expected, abs=1e-5)
