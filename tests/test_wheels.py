"""What is built and published: the wheels hold all that they need and nothing else, and work where nothing but they are."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import promptkit as package

ROOT = Path(package.__file__).parents[1]
SOURCES = {
    "promptkit": ".",
    "promptkit_coop": "plugins/coop",
    "promptkit_gopro": "plugins/gopro",
    "promptkit_zoo": "plugins/zoo",
    "promptkit_lasp": "examples/lasp",
}
"""By module, the folder of its package; the wheels of ours have "clip_" before it."""

OFFLINE = ("--no-index", "--no-deps", "--no-build-isolation")
TINY = ("--backbone", "tiny", "--weights", "none", "--workers", "0")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since setuptools builds beside the sources and takes up what it finds there."""
    left_out = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
    copy = shutil.copytree(ROOT, tmp_path_factory.mktemp("source") / "checkout", ignore=left_out)
    (copy / "runs/gopro").mkdir(parents=True, exist_ok=True)
    (copy / "runs/gopro/run.toml").touch()
    return copy


@pytest.fixture(scope="module")
def wheels(checkout: Path) -> list[Path]:
    words = (sys.executable, "-m", "pip", "wheel", *OFFLINE, "--wheel-dir", "dist", *SOURCES.values())
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(checkout.glob("dist/*.whl"))


@pytest.fixture(scope="module")
def installed(
    environment: "Environment", wheels: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Run a command where the wheels are installed; it has to succeed, and its output is returned."""
    folder = tmp_path_factory.mktemp("elsewhere")
    # The environment sees the running one's promptkit too, which --ignore-installed leaves be.
    done = environment.python("-m", "pip", "install", *OFFLINE, "--ignore-installed", *wheels, cwd=folder)
    assert done.status == 0, done.err

    def run(*words: object, warm: Callable[..., "list[Finished]"] | None = None, python: bool = False) -> str:
        if warm:
            (done,) = warm(*words, cwd=folder)
        else:
            command = words if python else (environment.folder / "bin/promptkit", *words)
            done = environment.python(*command, cwd=folder, PROMPTKIT_CACHE=str(folder / "cache"))
        assert done.status == 0, done.out + done.err
        assert "failed to load" not in done.err
        return done.out

    return run


def modules(checkout: Path, module: str) -> set[str]:
    """The files of a package's module."""
    folder = checkout / SOURCES[module]
    files = [folder / f"{module}.py", *(folder / module).rglob("*")]
    return {str(path.relative_to(folder)) for path in files if path.is_file()}


def test_a_wheel_holds_its_module_and_nothing_else(checkout: Path, wheels: list[Path]) -> None:
    assert sorted(wheel.name.partition("-")[0].removeprefix("clip_") for wheel in wheels) == sorted(SOURCES)
    for wheel in wheels:
        module = wheel.name.partition("-")[0].removeprefix("clip_")
        names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
        assert names == modules(checkout, module)
        assert module == "promptkit_lasp" or f"{module}/py.typed" in names


@pytest.mark.parametrize("module", ["promptkit", "promptkit_coop", "promptkit_gopro", "promptkit_zoo"])
def test_a_source_distribution_holds_what_builds_the_wheel(checkout: Path, module: str) -> None:
    code = "import setuptools.build_meta; setuptools.build_meta.build_sdist('.')"
    folder = checkout / SOURCES[module]
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames() if files.getmember(name).isfile()}
    rest = {name for name in names if ".egg-info/" not in name} - modules(checkout, module)
    assert modules(checkout, module) <= names
    assert {"pyproject.toml", "README.md"} <= rest
    assert rest <= {"pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "setup.cfg"}


def test_the_wheels_work_where_nothing_but_they_are(
    installed: Callable[..., str], environment: "Environment", images: Path, tmp_path: Path
) -> None:
    code = "import sys; from importlib.util import find_spec; print(*(find_spec(name).origin for name in sys.argv[1:]))"
    origins = installed("-c", code, *SOURCES, python=True).split()
    assert all(Path(origin).is_relative_to(environment.packages) for origin in origins), origins

    listed = {tuple(line.split()[:2]): line for line in installed("list", "recipe").splitlines()}
    for recipe, offering in (
        ("coop", "clip-promptkit-coop"),
        ("gopro", "clip-promptkit-gopro"),
        ("kgcoop", "clip-promptkit-zoo"),
        ("lasp", "promptkit-lasp"),
    ):
        assert offering in listed["recipe", recipe]
    with environment.warm(tmp_path) as warm:
        assert "weight of the texts' cross-entropy" in installed("show", "lasp", warm=warm)
        assert "fails" not in installed("check", "lasp", warm=warm)
        words = ("--data", images, *TINY, "--epochs", 1, "--shots", 2, "--batch-size", 8)
        for recipe in ("gopro", "lasp"):
            installed("train", recipe, *words, warm=warm)
        figures = installed("eval", "runs/gopro", "runs/lasp", "--data", images, "--workers", 0, warm=warm)
    assert "cartoon" in figures


def test_a_new_package_is_installed_checked_and_trained_unchanged(
    installed: Callable[..., str], environment: "Environment", tmp_path: Path
) -> None:
    assert "install --editable ./promptkit-my-learner" in installed("new", "my-learner")
    said = installed("install", "--no-index", "--no-build-isolation", "--editable", "./promptkit-my-learner")
    assert "promptkit-my-learner 0.1.0 is installed: recipe my-learner; prompts my-learner; loss my-learner" in said
    with environment.warm(tmp_path) as warm:
        assert "fails" not in installed("check", "my-learner", warm=warm)
        installed("demo-data", "pictures", "--per-class", 2, "--size", 32, warm=warm)
        trained = installed("train", "my-learner", "--data", "pictures", *TINY, "--epochs", 1, warm=warm)
    assert "saved runs/my-learner" in trained
