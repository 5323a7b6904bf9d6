"""The batches of a run: images read anew in every epoch, or features of views that were encoded once."""

from dataclasses import replace

from rich.console import Console

from promptkit import distributed
from promptkit.components import Views
from promptkit.config import RunConfig
from promptkit.data.layouts import Dataset
from promptkit.data.loading import Loader, train_loader
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
