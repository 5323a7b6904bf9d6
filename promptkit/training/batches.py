"""The batches of a run: images read anew in every epoch, or features of views that were encoded once."""

from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from promptkit import distributed
from promptkit.components import Views
from promptkit.config import RunConfig
from promptkit.data.layouts import Dataset
from promptkit.data.loading import Loaded, Loader, train_loader, trained_on
from promptkit.errors import ConfigError
from promptkit.features.cache import CachedBatches, cached_features
from promptkit.features.sources import Source, is_cacheable
from promptkit.learner import Learner
from promptkit.progress import reported
from promptkit.settings import LoaderSettings


def image_batches(config: RunConfig, dataset: Dataset, views: Views, pin_memory: bool, shuffle: bool = True) -> Loader:
    """Views made anew in every epoch."""
    return train_loader(
        dataset.items,
        views,
        config.loading,
        seed=config.train.seed,
        pin_memory=pin_memory,
        shuffle=shuffle,
        domains=dataset.domains,
    )


class PairedBatches:
    """Batches of a data set, each with as many pictures without labels, which come again as often as it takes."""

    def __init__(
        self, config: RunConfig, dataset: Dataset, unlabelled: Dataset, views: Views, pin_memory: bool
    ) -> None:
        self.labelled = image_batches(config, dataset, views, pin_memory)
        self.unlabelled = train_loader(
            unlabelled.items,
            views,
            config.loading,
            seed=config.train.seed,
            pin_memory=pin_memory,
            total=trained_on(len(dataset.items), config.train.batch_size),
        )

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        self.labelled.set_epoch(epoch, skip)
        self.unlabelled.set_epoch(epoch, skip)

    def __iter__(self) -> Iterator[Loaded]:
        for loaded, other in zip(self.labelled, self.unlabelled, strict=True):
            batch = loaded.batch and replace(loaded.batch, unlabelled=other.batch)
            yield Loaded(batch, loaded.index, (*loaded.unreadable, *other.unreadable))


def cached_batches(
    config: RunConfig, learner: Learner, dataset: Dataset, views: Views, console: Console
) -> CachedBatches:
    """Features of `train.cached_views` versions of the views. Raises ConfigError where the features can't be kept."""
    train = config.train
    spec = learner.required_features()
    source = Source.training(
        dataset.items,
        dataset.root,
        views,
        train.cached_views,
        train.seed,
        replace(config.loading, batch_size=LoaderSettings.batch_size),
    )
    if spec is None or not is_cacheable(spec) or not source.can_be_kept:
        raise ConfigError(
            "what the image tower sees for this learner can't be kept: it depends on what is learned, or on code "
            "that is in no file",
            "train without --cached-views",
        )
    with reported(console, "encoding views", train.cached_views * len(dataset.items)) as advance:
        if distributed.rank():
            distributed.gather_objects([])  # the first process computes it for all that share its disk
        (cached,) = cached_features(source, [spec], advance)
        if not distributed.rank():
            distributed.gather_objects([])
    return CachedBatches(cached, dataset, train.batch_size, train.seed)
