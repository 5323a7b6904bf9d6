"""The training loop, read top to bottom. It knows a learner, batches and an optimiser; no method has a branch in it."""

import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor

from promptkit import contract, distributed
from promptkit.data.images import Unreadable
from promptkit.data.loading import Batches
from promptkit.errors import DataError, PluginError, TrainingError
from promptkit.learner import Learner
from promptkit.runs.state import LoopState, Training
from promptkit.runs.tensorfile import misfits
from promptkit.settings import TrainSettings
from promptkit.tensors import Batch
from promptkit.training.accumulation import check_accumulates
from promptkit.training.callbacks import Callback, EpochResult
from promptkit.training.optimizer import load_optimizer, make_optimizer, optimizer_state

log = logging.getLogger("promptkit")

READ_EVERY = 16
"""Steps of a GPU, which goes on while nothing is read from it. A CPU is read after each: it makes nobody wait."""
READ_ALONE = 3
"""The first steps of a process are read one by one: by their times `Forecast` tells how long the rest takes."""


@dataclass(frozen=True)
class Unread:
    """A step whose figures are on the device still."""

    step: int
    images: int
    names: tuple[str, ...]
    """Loss terms first, then metrics."""
    terms: int
    """How many of them are loss terms."""
    figures: Float[Tensor, " names+1"]
    """In float64, and behind them the norm of the gradient before clipping."""


class Trainer:
    """Trains a learner. Between any two steps, `state` is all it takes to go on in another process.

    Raises ConfigError for an optimiser that timm does not know.
    """

    def __init__(self, learner: Learner, batches: Batches, settings: TrainSettings) -> None:
        self.learner = learner
        self.batches = batches
        self.settings = settings
        self.device = learner.scene.backbone.device
        self.loop = LoopState.before(1)
        self.read_every = 1 if self.device.type == "cpu" else READ_EVERY
        self.steps = 0
        self.unread: list[Unread] = []
        self.finite = torch.ones((), dtype=torch.bool, device=self.device)
        self.figures: dict[str, float] = {}
        self.parameters = list(learner.parameters())
        self.optimizer = make_optimizer(learner, settings)
        # As the published learners do: warm-up epochs at a constant rate, then a schedule over `epochs` from the peak.
        warmup = min(settings.warmup_epochs, settings.epochs - 1)
        self.schedule, _ = create_scheduler_v2(
            self.optimizer,
            settings.schedule,
            num_epochs=max(settings.epochs, 2),  # timm warns of a cosine over one epoch, which is the peak rate
            decay_epochs=settings.decay_epochs,
            decay_rate=settings.decay_rate,
            warmup_epochs=warmup,
            warmup_lr=settings.warmup_lr if warmup else settings.lr,
            warmup_prefix=True,
        )
        torch.manual_seed(settings.seed + distributed.rank())
        if settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(settings.deterministic)

    def train(self, callbacks: Sequence[Callback] = ()) -> None:
        """Train from `loop` to the end; the callbacks hear of every step and epoch, in their order.

        Raises TrainingError when a loss term or the gradient is not finite, which reaches no parameter, when what was
        learned by the end of an epoch is not, before the callbacks hear of it, and when there is not enough memory;
        DataError for an unreadable image where there are several processes.
        """
        try:
            for callback in callbacks:
                callback.on_start()
            last = False
            while self.loop.epoch <= self.settings.epochs and not last:
                result = self._train_epoch(callbacks)
                for callback in callbacks:
                    callback.on_epoch(result)
                last = result.last
        finally:
            for callback in callbacks:
                callback.on_end()

    def _train_epoch(self, callbacks: Sequence[Callback]) -> EpochResult:
        at = self.loop
        started = time.perf_counter()
        self.schedule.step(at.epoch - 1)
        rate = self.optimizer.param_groups[0]["lr"]
        self.batches.set_epoch(at.epoch, skip=at.batch)
        self.learner.train()
        if not at.batch:
            self.learner.epoch_start(at.epoch, self.settings.epochs)
        unreadable: list[Unreadable] = []

        for loaded in self.batches:
            at.batch += 1
            check_readable(loaded.unreadable)
            unreadable += loaded.unreadable
            at.unreadable += len(loaded.unreadable)
            if loaded.batch is None:
                continue
            at.step += 1
            batch = loaded.batch.to(self.device)
            terms, metrics = self._forward_backward(batch)
            if at.step == 1:
                warn_unreached(self.learner)
            images = len(batch.label)
            self._update(terms, metrics, images)
            self.learner.step_end(at.step)
            at.steps_in_epoch += 1
            at.images += images
            for callback in callbacks:
                callback.on_step(self.figures, images)

        self._read()
        self.learner.epoch_end(at.epoch, self.settings.epochs)
        check_learned(self.learner, f"after step {at.step} (epoch {at.epoch})")
        self.learner.eval()
        return self._finish_epoch(rate, time.perf_counter() - started, unreadable)

    def _forward_backward(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms and metrics; gradients of the terms reach the learner's own parameters and nothing else.

        A device that runs out of memory is answered with smaller chunks, for as long as the backbone can make them. Not in
        one of several processes: the others would wait for what it has gathered already.
        """
        backbone = self.learner.scene.backbone
        while True:
            self.optimizer.zero_grad()
            try:
                parts = batch.chunk(accumulate) if (accumulate := self.settings.accumulate) > 1 else [batch]
                if accumulate > 1 and self.loop.step == 1:
                    check_accumulates(self.learner, batch, accumulate)
                figures = [self._gradients(part, len(part.label) / len(batch.label)) for part in parts]
            except torch.OutOfMemoryError as error:
                if distributed.processes() > 1:
                    raise TrainingError(
                        f"out of memory at step {self.loop.step}: {error}",
                        "bound what text encoding holds with --memory-gb, or try a smaller --batch-size",
                    ) from None
                if not backbone.use_less_memory():
                    raise TrainingError(
                        f"out of memory at step {self.loop.step}, in the smallest chunks: {error}",
                        "try a smaller --batch-size",
                    ) from None
                log.warning("out of memory at step %d; going on in smaller chunks", self.loop.step)
            else:
                terms, metrics = (
                    {name: torch.stack([part[name] for part in kind]).sum() for name in kind[0]}
                    for kind in zip(*figures, strict=True)
                )
                return terms, metrics

    def _gradients(self, part: Batch, share: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Add the gradients of a share of a step's batch; returns its share of the loss terms and of the metrics."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            outputs = self.learner(part)
            terms = dict(self.learner.loss(outputs))
            contract.check_terms(terms)
            with torch.no_grad():
                metrics = as_tensors(self.learner.metrics(outputs), terms)
        contract.check_differentiable(terms)
        if share < 1:
            terms, metrics = ({name: share * value for name, value in kind.items()} for kind in (terms, metrics))
        self.learner.backward(terms)
        return {name: term.detach() for name, term in terms.items()}, metrics

    def _update(self, terms: Mapping[str, Tensor], metrics: Mapping[str, Tensor], images: int) -> None:
        """Let the optimiser use the gradients of all processes.

        A step waits for its device here, and only where figures are read. What is not finite is known on the device at
        once: from then on no step moves a parameter, until the next read raises TrainingError.
        """
        distributed.average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad or torch.inf)
        scalars = {**terms, **metrics}
        figures = torch.stack([scalar.detach().to(torch.float64) for scalar in (*scalars.values(), norm)])
        self.unread.append(Unread(self.loop.step, images, tuple(scalars), len(terms), figures))
        self.steps += 1
        if self.steps <= READ_ALONE or len(self.unread) >= self.read_every:
            self._read()
            self.optimizer.step()
            return
        self.finite &= figures.isfinite().all()
        before = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer.step()
        with torch.no_grad():
            for parameter, value in zip(self.parameters, before, strict=True):
                parameter.copy_(torch.where(self.finite, parameter, value))

    def _read(self) -> None:
        """Take the figures of all unread steps from the device, which is waited for, into the sums of the epoch.

        Raises TrainingError naming the first loss term or metric that is not finite, or the norm; the parameters are as
        they were before that step.
        """
        unread, self.unread = self.unread, []
        if not unread:
            return
        read = iter(torch.cat([step.figures for step in unread]).tolist())
        for step in unread:
            values = dict(zip((*step.names, ""), read, strict=False))  # the norm is the last of each step
            for number, (name, value) in enumerate(values.items()):
                if not math.isfinite(value):
                    kind = "loss term" if number < step.terms else "metric"
                    what = f"{kind} {name!r}" if name else "the norm of the gradient"
                    raise TrainingError(
                        f"{what} is {value} at step {step.step} (epoch {self.loop.epoch})",
                        "try a smaller --lr, or --set train.clip_grad=1" if name else "try a smaller --lr",
                    )
            self.loop.norms += values.pop("")
            for name, value in values.items():
                self.loop.sums[name] = self.loop.sums.get(name, 0.0) + value * step.images
            self.figures = values

    def _finish_epoch(self, rate: float, seconds: float, unreadable: list[Unreadable]) -> EpochResult:
        at = self.loop
        images = int(distributed.total(at.images))
        if not images:
            first = f"{unreadable[0].path}: {unreadable[0].reason}" if unreadable else "this process had none"
            raise TrainingError(f"not one training picture was readable in epoch {at.epoch}", f"the first, {first}")
        result = EpochResult(
            at.epoch,
            self.settings.epochs,
            rate,
            {name: distributed.total(value) / images for name, value in at.sums.items()},
            at.norms / at.steps_in_epoch,
            images,
            seconds,
            int(distributed.total(at.unreadable)),
            distributed.gather_objects(unreadable),
        )
        self.loop = LoopState.before(at.epoch + 1, at.step)
        return result

    def state(self) -> tuple[dict[str, Tensor], Training]:
        """Tensors and plain values from which `load_state` goes on as if nothing had happened. All processes call it.

        Raises TrainingError when what was learned is not finite.
        """
        self._read()
        check_learned(self.learner, f"after step {self.loop.step} (epoch {self.loop.epoch})")
        tensors = {f"learner.{name}": tensor.detach().cpu() for name, tensor in self.learner.state_dict().items()}
        kept, scalars, groups = optimizer_state(self.optimizer)
        tensors |= kept
        frozen = [name for name, parameter in self.learner.named_parameters() if not parameter.requires_grad]
        for process, states in enumerate(distributed.gather_objects([generator_states(self.device)])):
            tensors |= {f"generator.{process}.{name}": value for name, value in states.items()}
        return tensors, Training(deepcopy(self.loop), scalars, groups, frozen)

    def load_state(self, tensors: Mapping[str, Tensor], plain: Training) -> None:
        """Go on from a state. Raises ValueError, or whatever torch raises, for one that is not of this learner."""
        parts: dict[str, dict[str, Tensor]] = {"learner": {}, "optimizer": {}, "group": {}, "generator": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = tensor
        if wrong := misfits(parts["learner"], self.learner.state_dict()):
            raise ValueError("; ".join(wrong))
        if plain.loop.epoch > self.settings.epochs:
            raise ValueError(f"it is in epoch {plain.loop.epoch} of {self.settings.epochs}")
        named = dict(self.learner.named_parameters())
        if unknown := [name for name in plain.frozen if name not in named]:
            raise ValueError(f"there is no parameter {unknown[0]!r} to freeze")
        self.loop = deepcopy(plain.loop)
        if self.loop.batch:
            self.learner.epoch_start(self.loop.epoch, self.settings.epochs)
        load_optimizer(self.optimizer, self.learner, parts["learner"], parts["optimizer"], parts["group"], plain)
        for name, parameter in named.items():
            parameter.requires_grad_(name not in plain.frozen)
        torch.set_rng_state(tensors[f"generator.{distributed.rank()}.cpu"])
        kept = tensors.get(f"generator.{distributed.rank()}.cuda")  # none of a run on another kind of device
        if self.device.type == "cuda" and kept is not None:
            torch.cuda.set_rng_state(kept, self.device)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The state of torch's generators in this process; views and order have none, they follow from seed and epoch."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def show_images(learner: Learner, batches: Batches) -> None:
    """Show the learner its training images; one that doesn't look costs nothing."""
    device = learner.scene.backbone.device
    batches.set_epoch(0)
    learner.eval()
    learner.start(loaded.batch.to(device) for loaded in batches if loaded.batch is not None)
    check_learned(learner, "before the first step")


def check_readable(unreadable: Sequence[Unreadable]) -> None:
    """Raises DataError for an unreadable image where several processes share the batch."""
    if unreadable and distributed.processes() > 1:
        raise DataError(
            f"{unreadable[0].path} can't be read: {unreadable[0].reason}",
            "several processes have equal shares of a batch: remove the picture, or train in one process",
        )


def as_tensors(metrics: Mapping[str, Tensor | float], terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `Learner.metrics` returned. Raises PluginError for what is no scalar, or has the name of a loss term."""
    device = next(iter(terms.values())).device
    tensors = {name: torch.as_tensor(value, dtype=torch.float32, device=device) for name, value in metrics.items()}
    for name, tensor in tensors.items():
        if tensor.ndim:
            raise PluginError(f"the metric {name!r} has the shape {tuple(tensor.shape)}", "reduce it to a scalar")
        if name in terms:
            raise PluginError(f"the metric {name!r} has the name of a loss term", "give it another in metrics()")
    return tensors


def warn_unreached(learner: Learner) -> None:
    """After the first backward pass: name the parameters that it has not reached."""
    if lacking := contract.unreached(learner):
        log.warning(
            "no gradient reaches %s: it stays as it began; use it in the forward pass, or hold it as a buffer",
            ", ".join(lacking),
        )


def check_learned(learner: Learner, when: str) -> None:
    """Raises TrainingError naming the first tensor of a learner that is not finite."""
    for name, tensor in learner.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise TrainingError(
                f"{name} is not finite {when}, and was not saved", "try a smaller --lr, or --set train.clip_grad=1"
            )
