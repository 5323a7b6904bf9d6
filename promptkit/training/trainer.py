"""The training loop, read top to bottom. It knows a learner, batches and an optimiser; no method has a branch in it."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor

from promptkit.config import TrainSettings
from promptkit.data.loading import Loader, Unreadable
from promptkit.errors import ConfigError, TrainingError
from promptkit.learner import Learner
from promptkit.tensors import Batch


@dataclass(frozen=True)
class EpochResult:
    """What one epoch did. `terms` are means over its pictures."""

    epoch: int
    lr: float
    terms: Mapping[str, float]
    pictures: int
    seconds: float
    unreadable: list[Unreadable] = field(default_factory=list)


def fit(
    learner: Learner,
    batches: Loader,
    settings: TrainSettings,
    on_step: Callable[[Mapping[str, Tensor], int], None] = lambda terms, pictures: None,
) -> Iterator[EpochResult]:
    """Train, and yield after every epoch. `on_step` hears each step's loss terms and its number of pictures.

    Raises TrainingError when a loss term is not finite, before it reaches any parameter; ConfigError for an optimiser
    that timm does not know.
    """
    device = learner.scene.backbone.logit_scale.device
    torch.manual_seed(settings.seed)

    optimizer = make_optimizer(learner, settings)
    # As the published learners do: warm-up epochs at a constant rate, then a cosine over `epochs` from the peak.
    warmup = min(settings.warmup_epochs, settings.epochs - 1)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=max(settings.epochs, 2),  # timm warns of a cosine over one epoch, which is the peak rate
        warmup_t=warmup,
        warmup_lr_init=settings.warmup_lr if warmup else settings.lr,
        warmup_prefix=True,
    )
    parameters = list(learner.parameters())

    step = 0
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        schedule.step(epoch - 1)
        rate = optimizer.param_groups[0]["lr"]
        batches.set_epoch(epoch)
        learner.train()
        sums: dict[str, Tensor] = {}
        pictures = 0
        unreadable: list[Unreadable] = []

        for loaded in batches:
            unreadable += loaded.unreadable
            if loaded.batch is None:
                continue
            step += 1
            batch = to_device(loaded.batch, device)

            # Forward: the frozen towers and the loss.
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                terms = learner.loss(learner(batch))
            check_terms(terms, step, epoch)

            # Backward: gradients reach the learner's own parameters and nothing else.
            optimizer.zero_grad()
            learner.backward(terms)
            if settings.clip_grad:
                torch.nn.utils.clip_grad_norm_(parameters, settings.clip_grad)
            optimizer.step()

            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() * len(batch.label)
            pictures += len(batch.label)
            on_step(terms, len(batch.label))

        learner.epoch_end(epoch, settings.epochs)
        learner.eval()
        if not pictures:
            raise TrainingError(f"not one training picture was readable in epoch {epoch}", "see the warnings above")
        means = {name: total.item() / pictures for name, total in sums.items()}
        yield EpochResult(epoch, rate, means, pictures, time.perf_counter() - started, unreadable)


def make_optimizer(learner: Learner, settings: TrainSettings) -> torch.optim.Optimizer:
    """timm's optimiser of that name. Raises ConfigError when timm has none."""
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            learner,
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        )
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"train.optimizer={settings.optimizer!r}: {error}", "such as momentum, sgd or adamw"
        ) from None
    return optimizer


def to_device(batch: Batch, device: torch.device) -> Batch:
    views = {name: pixels.to(device, non_blocking=True) for name, pixels in batch.views.items()}
    return Batch(views, batch.label.to(device, non_blocking=True))


def check_terms(terms: Mapping[str, Tensor], step: int, epoch: int) -> None:
    """Raises TrainingError naming the first term that is not finite."""
    finite = torch.isfinite(torch.stack([term.detach() for term in terms.values()]))
    if not finite.all():
        name = list(terms)[int(finite.int().argmin())]
        raise TrainingError(
            f"loss term {name!r} is {terms[name].item()} at step {step} (epoch {epoch})",
            "try a smaller --lr, or --set train.clip_grad=1",
        )
