"""Runs that are killed at any moment, and go on, end with what one that is left alone has learned."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import promptkit as package
from tests.training.conftest import learned, log

Command = Callable[..., "Finished"]
Warm = Callable[..., "list[Finished]"]

ZOO = Path(package.__file__).parents[1] / "plugins/zoo/pyproject.toml"
TINY = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--shots", "4")

REGISTERED = """
import contextlib, importlib.util
from promptkit.testing import registered

def load(path):
    spec = importlib.util.spec_from_file_location("loaded", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

held = contextlib.ExitStack()
held.enter_context(registered({plugins}, "clip-promptkit-zoo"))
"""

KILLS = """
import contextlib, random, time

out, kills, *words = sys.argv[1:]

def saves(child, run, most):
    # Waits until a run has saved its state so many times, or ended; returns how many times it has.
    seen, last = 0, 0
    while seen < most and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(f"{run}/state.safetensors").st_mtime_ns
            seen, last = seen + (now != last), now
        time.sleep(0.001)
    return seen

os.environ["PROMPTKIT_CACHE"] = f"{out}/cache-whole"
begun = time.monotonic()
whole = start([*words, "--out", f"{out}/whole"], log=None)
count = saves(whole, f"{out}/whole", 10**6)
pause = (time.monotonic() - begun) / count
assert finish(whole) == 0
rng = random.Random(0)
killed = 0
for trial in range(int(kills)):
    os.environ["PROMPTKIT_CACHE"] = f"{out}/cache{trial}"
    run = [*words, "--out", f"{out}/run{trial}"]
    child = start(run)
    saves(child, f"{out}/run{trial}", rng.randrange(count - 1))
    time.sleep(rng.uniform(0, pause))
    os.kill(child, signal.SIGKILL)
    killed += finish(child) == -signal.SIGKILL
    assert finish(start([*run, "--resume"], log=None)) == 0, trial
print("killed", killed)
"""


@pytest.fixture
def kill(warm: Warm, tmp_path: Path) -> Callable[..., None]:
    """Train, and kill so many runs of the same and resume them: kill(3, "train", "coop", ...)."""

    def run(kills: int, *words: object, plugins: str = "[]") -> None:
        # The state is saved after every step, so that many kills fall into a save.
        words = (*words, "--set", "train.save_minutes=0")
        code = REGISTERED.format(plugins=plugins) + KILLS
        (done,) = warm(tmp_path, kills, *words, cwd=tmp_path, code=code)
        assert done.status == 0, done.out + done.err
        assert int(done.out.split()[-1]) >= kills / 2, "most runs should have been killed before their end"
        assert "going on in epoch" in done.out
        whole = tmp_path / "whole"
        assert len(log(whole)) == int(words[words.index("--epochs") + 1])
        for trial in range(kills):
            resumed = tmp_path / f"run{trial}"
            assert learned(resumed) == learned(whole)
            assert log(resumed) == log(whole)
            assert not (resumed / "state.safetensors").exists()

    return run


@pytest.mark.parametrize(("kills", "cached"), [(10, 0), (3, 2)])
def test_kills_at_any_moment_change_nothing(kills: int, cached: int, kill: Callable[..., None], images: Path) -> None:
    """With a cache, its writing can be killed too: every run has a cache of its own."""
    words = ("--epochs", "3", "--domains", "photo", "--set", "train.optimizer=adamw", "--cached-views", cached)
    kill(kills, "train", "gopro", "--data", images, *TINY, *words)


def test_stages_and_rates_of_its_own_survive_a_kill(kill: Callable[..., None], images: Path, tmp_path: Path) -> None:
    """A learner that thaws a parameter in epoch 2, which has a rate of its own, and averages over steps."""
    (tmp_path / "teacher.txt").write_text("x")
    own = Path(__file__).with_name("test_learner_slot.py")
    words = ("--data", images, *TINY, "--epochs", "3", "--batch-size", "8")
    kill(3, "train", "staged", *words, plugins=f"load({str(own)!r}).Plugin()")


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("dapl", ("--unlabelled", "few")),
        ("proda", ()),
        ("promptkd", ("--teacher", "teacher")),
        ("tip-adapter", ()),
    ],
)
def test_learners_of_the_zoo_survive_a_kill(
    name: str, own: tuple[str, ...], kill: Callable[..., None], train: Command, images: Path, tmp_path: Path
) -> None:
    """Pictures without labels, prompts that take turns, a teacher, and what is kept of the training pictures."""
    (tmp_path / "few").symlink_to(images / "cartoon")
    if name == "promptkd":
        assert train("zeroshot", "--domains", "photo", "--epochs", 0, "--out", "teacher").status == 0
    points = tomllib.loads(ZOO.read_text())["project"]["entry-points"]["promptkit"]
    plugins = ", ".join(f"importlib.import_module({module!r})" for module in points.values())
    words = ("--data", images, *TINY, "--domains", "photo", "--epochs", "2", "--batch-size", "4")
    kill(2, "train", name, *words, *own, plugins=f"[{plugins}]")
