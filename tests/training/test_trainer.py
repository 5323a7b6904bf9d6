"""The loop: its schedule, its answers to trouble."""

import itertools
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from promptkit.backbones.tiny import tiny_backbone
from promptkit.build import build_learner, build_views
from promptkit.components import Scene
from promptkit.config import resolve
from promptkit.data.layouts import read_dataset
from promptkit.data.loading import train_loader
from promptkit.errors import TrainingError
from promptkit.learner import Learner
from promptkit.registry import installed
from promptkit.runs.checkpoint import read_metadata, read_tensors
from promptkit.settings import LoaderSettings
from promptkit.training.callbacks import Callback, EpochResult
from promptkit.training.trainer import READ_ALONE, READ_EVERY, Trainer, generator_states

Command = Callable[..., "Finished"]


def trainer(
    images: Path, recipe: str = "cocoop", device: str = "cpu", batch_size: int = 8, **settings: object
) -> Trainer:
    config = resolve(installed(), recipe, sets=[f"train.{name}={value}" for name, value in settings.items()])
    backbone = tiny_backbone().to(torch.device(device))
    dataset = read_dataset(images, ["photo"])
    learner = build_learner(config, installed(), Scene(backbone, dataset.classnames))
    views = build_views(config, installed(), backbone)
    loading = LoaderSettings(batch_size=batch_size, workers=0)
    batches = train_loader(dataset.items, views, loading, seed=1, pin_memory=device == "cuda")
    return Trainer(learner, batches, config.train)


class Recorder(Callback):
    def __init__(self) -> None:
        self.results: list[EpochResult] = []
        self.calls: list[str] = []

    def on_start(self) -> None:
        self.calls.append("start")

    def on_step(self, terms: Mapping[str, float], images: int) -> None:
        self.calls.append("step")

    def on_epoch(self, result: EpochResult) -> None:
        self.results.append(result)
        self.calls.append("epoch")

    def on_end(self) -> None:
        self.calls.append("end")


def test_callbacks_hear_of_every_step_and_epoch(images: Path) -> None:
    heard = Recorder()
    trainer(images, "coop", epochs=2).train([heard])
    steps = (len(read_dataset(images, ["photo"]).items) + 7) // 8
    assert heard.calls == ["start", *2 * [*steps * ["step"], "epoch"], "end"]
    assert [(result.epoch, result.last) for result in heard.results] == [(1, False), (2, True)]


def test_callbacks_hear_of_the_end_when_training_fails(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Recorder()
    running = trainer(images, epochs=1)
    out_of_memory(running, monkeypatch, until=None)
    with pytest.raises(TrainingError):
        running.train([heard])
    assert heard.calls == ["start", "end"]


def test_the_schedule_is_the_published_one(images: Path) -> None:
    heard = Recorder()
    trainer(images, "coop", epochs=5, lr=0.002).train([heard])
    rates = [result.lr for result in heard.results]
    # One epoch at 1e-5, then a cosine over all epochs from the peak: Dassl's ConstantWarmupScheduler.
    assert rates == pytest.approx([1e-5] + [0.001 * (1 + math.cos(math.pi * t / 5)) for t in range(4)])


def test_epoch_end_is_called_after_every_epoch(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = trainer(images, "coop", epochs=3)
    heard: list[tuple[int, int]] = []
    monkeypatch.setattr(running.learner, "epoch_end", lambda epoch, epochs: heard.append((epoch, epochs)))
    running.train()
    assert heard == [(1, 3), (2, 3), (3, 3)]


def out_of_memory(running: Trainer, monkeypatch: pytest.MonkeyPatch, until: int | None) -> None:
    """Let the encoder have memory for passes over `until` rows; None: for none at all."""
    encoder = running.learner.scene.backbone.encoder
    encode = encoder._encode

    def encode_some(rows, *rest):  # type: ignore[no-untyped-def]
        if until is None or rows.count > until:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        return encode(rows, *rest)

    monkeypatch.setattr(encoder, "_encode", encode_some)


def test_out_of_memory_is_answered_with_smaller_chunks(
    images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("promptkit"), "propagate", True)
    plain = trainer(images, epochs=2)
    plain.train()
    short = trainer(images, epochs=2)
    out_of_memory(short, monkeypatch, until=3)
    short.train()
    said = [record.message for record in caplog.records if "smaller chunks" in record.message]
    assert set(said) == {"out of memory at step 1; going on in smaller chunks"}
    for name, tensor in plain.learner.state_dict().items():
        torch.testing.assert_close(short.learner.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_out_of_memory_in_the_smallest_chunks_is_an_error(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = trainer(images, epochs=1)
    out_of_memory(running, monkeypatch, until=None)
    with pytest.raises(TrainingError, match="out of memory at step 1, in the smallest chunks: tried to allocate"):
        running.train()


def test_out_of_memory_in_one_of_several_processes_is_an_error(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller chunks would gather once more what the others have gathered."""
    running = trainer(images, epochs=1)
    out_of_memory(running, monkeypatch, until=3)
    monkeypatch.setattr("promptkit.distributed.processes", lambda: 2)
    with pytest.raises(TrainingError, match="out of memory at step 1: tried to allocate") as raised:
        running.train()
    assert "--memory-gb" in raised.value.hint


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_not_stepped(
    value: float, train: Command, promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step of all, what was saved in the first epoch stays, and the run can go on."""
    words = ("--batch-size", 16)
    train("coop", "--out", "whole", *words)
    backward, calls = Learner.backward, []

    def spoil(learner: Learner, terms: dict[str, torch.Tensor]) -> None:
        backward(learner, terms)
        calls.append(learner)
        if len(calls) == 4:
            learner.prompts.ctx.grad.view(-1)[0] = value

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "backward", spoil)
        done = train("coop", "--out", "run", *words)
    assert done.status == 2
    assert f"error: the norm of the gradient is {value} at step 4 (epoch 2)" in done.err
    assert "--lr" in done.err
    assert read_metadata(tmp_path / "run").epoch == 1
    assert promptkit("train", "--out", "run", "--resume").status == 0
    for name, tensor in read_tensors(tmp_path / "whole").items():
        assert torch.equal(read_tensors(tmp_path / "run")[name], tensor)


def test_a_state_goes_on_on_another_kind_of_device(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's generator is read from the device of the run, and set where the state has one."""
    before, after = trainer(images, "coop"), trainer(images, "coop")
    tensors, plain = before.state()
    assert {name for name in tensors if name.startswith("generator")} == {"generator.0.cpu"}
    asked: list[torch.device] = []
    generator = torch.zeros(16, dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or generator)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(device))
    device = torch.device("cuda:1")
    assert generator_states(device).keys() == {"cpu", "cuda"}
    assert asked == [device]
    after.device = device
    after.load_state(tensors, plain)
    assert asked == [device]
    after.load_state({**tensors, "generator.0.cuda": generator}, plain)
    assert asked == [device, device]


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_was_learned_and_is_not_finite_after_the_last_step_is_not_saved(
    value: float, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(learner: Learner, epoch: int, epochs: int) -> None:
        if epoch == epochs:
            learner.prompts.ctx.data.view(-1)[0] = value

    monkeypatch.setattr(Learner, "epoch_end", spoil)
    done = train("coop", "--out", "run", "--batch-size", 16)
    assert done.status == 2
    assert "error: prompts.ctx is not finite after step 4 (epoch 2), and was not saved" in done.err
    assert "saved run" not in done.out
    assert read_metadata(tmp_path / "run").epoch == 1


def test_what_a_learner_keeps_of_the_images_is_finite_or_not_saved(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "start", lambda learner, batches: learner.prompts.ctx.data.fill_(math.nan))
    done = train("coop", "--out", "run", "--epochs", 0)
    assert done.status == 2
    assert "prompts.ctx is not finite before the first step" in done.err
    assert not (tmp_path / "run/learner.safetensors").exists()


class Reads(TorchDispatchMode):
    """Counts the scalars that Python reads off a tensor, each of which would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("recipe", "every"), [("coop", 1), ("gopro", 1), ("coop", 4)])
def test_a_step_waits_for_its_device_once_or_not_at_all(
    images: Path, recipe: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = trainer(images, recipe, batch_size=2, epochs=1)
    running.read_every = every
    counts, lists, tolist = [], [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: lists.append(tensor) or tolist(tensor))

    class Counted(Recorder):
        def on_step(self, terms: Mapping[str, float], images: int) -> None:
            counts.append((reads.count, len(lists)))

    with Reads() as reads:
        running.train([Counted()])
    # Figures are read as one list; between two steps nothing else is read.
    assert len(counts) > 7
    assert counts[-1][0] == counts[0][0]
    read = [later[1] - earlier[1] for earlier, later in itertools.pairwise(counts)]
    assert read == [int(step <= READ_ALONE or (step - READ_ALONE) % every == 0) for step in range(2, len(read) + 2)]


def steps_of(trainer: Trainer) -> list[list[torch.Tensor]]:
    """What was learned after each step, until an error ends training."""
    learned: list[list[torch.Tensor]] = []

    class Kept(Callback):
        def on_step(self, terms: Mapping[str, float], images: int) -> None:
            learned.append([parameter.detach().clone() for parameter in trainer.parameters])

    trainer.train([Kept()])
    return learned


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_figures_read_every_few_steps_are_those_of_every_step(images: Path, optimizer: str) -> None:
    often, seldom, heard = (trainer(images, "coop", epochs=3, optimizer=optimizer) for _ in range(3))
    seldom.read_every = heard.read_every = 4
    for one, other in zip(steps_of(often), steps_of(seldom), strict=True):
        assert all(map(torch.equal, one, other))
    results = [Recorder(), Recorder()]
    for running, recorder in zip((trainer(images, "coop", epochs=3, optimizer=optimizer), heard), results, strict=True):
        running.train([recorder])
    figures = [[(result.terms, result.grad_norm) for result in recorder.results] for recorder in results]
    assert figures[0] == figures[1]


def test_a_state_holds_the_figures_of_steps_that_were_not_read(images: Path) -> None:
    states = []

    class Stop(Callback):
        def on_step(self, terms: Mapping[str, float], images: int) -> None:
            if running.loop.step == 5:
                states.append(running.state()[1].loop)
                raise KeyboardInterrupt

    for every in (1, 100):
        running = trainer(images, "coop", epochs=3)
        running.read_every = every
        with pytest.raises(KeyboardInterrupt):
            running.train([Stop()])
    assert states[0] == states[1]
    assert states[0].sums["ce"] > 0


@pytest.mark.parametrize("infinite", ["gradient", "term"])
def test_a_step_that_is_not_finite_moves_nothing_though_it_is_read_later(images: Path, infinite: str) -> None:
    running = trainer(images, "coop", epochs=4, weight_decay=0.1)
    running.read_every = 4
    backward = running.learner.backward

    def broken(terms: Mapping[str, torch.Tensor]) -> None:
        backward(terms)
        if running.loop.step == 5:
            if infinite == "term":
                terms["ce"].data.fill_(math.inf)
            else:
                running.parameters[0].grad.fill_(math.nan)  # type: ignore[union-attr]

    running.learner.backward = broken  # type: ignore[method-assign]
    after: list[torch.Tensor] = []

    class Kept(Callback):
        def on_step(self, terms: Mapping[str, float], images: int) -> None:
            after.append(running.parameters[0].detach().clone())

    what = "loss term 'ce' is inf" if infinite == "term" else "the norm of the gradient is nan"
    with pytest.raises(TrainingError, match=rf"{what} at step 5"):
        running.train([Kept()])
    assert len(after) > 4
    assert not torch.equal(after[2], after[3])
    assert torch.equal(running.parameters[0], after[3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_torch_sees_no_step_wait_for_a_gpu_but_those_that_are_read(images: Path) -> None:
    running = trainer(images, "coop", "cuda", epochs=8)
    waited: list[int] = []

    class Counted(Callback):
        def on_step(self, terms: Mapping[str, float], images: int) -> None:
            waited.append(len(warned))

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            running.train([Counted()])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waiting = sum(later > earlier for earlier, later in itertools.pairwise(waited))
    assert waiting <= READ_ALONE + len(waited) // READ_EVERY + 8  # the end of an epoch is read, too
