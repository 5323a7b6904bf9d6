"""What prompt learners are compared by: on which part of which data set to train, and on which parts to test.

| protocol | trains on | tests on | source |
| --- | --- | --- | --- |
| base-to-new | the first half of the classes | each half, among its own classes | Zhou et al., CVPR 2022 (CoCoOp) |
| few-shot | all classes | all classes | Zhou et al., IJCV 2022 (CoOp) |
| cross-dataset | one data set, ImageNet | it, and ten others | Zhou et al., CVPR 2022 |
| domain-generalization | one data set, ImageNet | it, and four variants of it | Zhou et al., IJCV 2022 |
| leave-one-domain-out | all domains but one | that one | Gulrajani and Lopez-Paz, ICLR 2021 (DomainBed) |
| domain-adaptation | all domains but one, or those of the source, and the training pictures of that one without labels | \
its test pictures | Ge et al., TNNLS 2023 (DAPL) |

Test images are those of the data set's split. Where promptkit draws it, a domain that was left out is tested whole: none
of its images was trained on.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from promptkit.data.catalog import NamedDataset
from promptkit.data.layouts import Dataset
from promptkit.data.selection import open_dataset, subset
from promptkit.errors import ConfigError, DataError, UnknownNameError
from promptkit.registry import Registry
from promptkit.settings import split_names

OTHERS = (
    "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101", "fgvc_aircraft", "sun397", "dtd",
    "eurosat", "ucf101",
)  # fmt: skip
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")


@dataclass(frozen=True, eq=False)
class BenchData:
    """A data set that is read, all of it."""

    name: str
    """In the catalogue, or the folder's."""
    path: str
    dataset: Dataset
    named: NamedDataset | None = None
    """Its entry in the catalogue, if it was asked for by name."""

    @property
    def title(self) -> str:
        return self.named.title if self.named else self.name


@dataclass(frozen=True, eq=False)
class Target:
    """The test pictures of some domains (all, where there are none here), among all, base or new classes."""

    data: BenchData
    domains: tuple[str, ...] = ()
    classes: str = "all"
    left_out: bool = False
    """Was no image of these domains trained on?"""

    @property
    def split(self) -> str:
        """Whose split chose the test images, as `Dataset.split_source` says; whole: none, every image is tested."""
        source = self.data.dataset.split_source
        return "whole" if self.left_out and source == "drawn" else source

    def __str__(self) -> str:
        classes = [] if self.classes == "all" else [f"{self.classes} classes"]
        return ", ".join([self.data.title, *self.domains, *classes])


@dataclass(frozen=True, eq=False)
class Part:
    """What one learner is trained on with one seed, and what is then asked of it. `name` tells parts of one data set."""

    data: BenchData
    targets: tuple[Target, ...]
    domains: tuple[str, ...] = ()
    classes: str = "all"
    name: str = ""
    unlabelled: tuple[str, ...] = ()
    """Domains whose training pictures are seen without labels, by losses that look at such."""


def base_to_new(datasets: Sequence[BenchData], source: str) -> Iterator[Part]:
    for data in datasets:
        targets = Target(data, classes="base"), Target(data, classes="new")
        yield Part(data, targets, domains_of(data, source), classes="base")


def few_shot(datasets: Sequence[BenchData], source: str) -> Iterator[Part]:
    for data in datasets:
        yield Part(data, (Target(data),), domains_of(data, source))


def leave_one_domain_out(datasets: Sequence[BenchData], source: str) -> Iterator[Part]:
    for data in datasets:
        domains = data.dataset.domains
        if source:
            raise ConfigError("leave-one-domain-out trains on every domain but one", "leave --source out")
        if len(domains) < 2:
            raise DataError(
                f"{data.path} has {len(domains)} domains, and leave-one-domain-out needs two or more",
                "a folder with domains is domain/class/picture",
            )
        for domain in domains:
            others = tuple(other for other in domains if other != domain)
            yield Part(data, (Target(data, (domain,), left_out=True),), others, name=domain)


def domain_adaptation(datasets: Sequence[BenchData], source: str) -> Iterator[Part]:
    for data in datasets:
        domains, labelled = data.dataset.domains, domains_of(data, source)
        targets = [domain for domain in domains if domain not in labelled]
        if len(domains) < 2 or not targets:
            raise DataError(
                f"{data.path} has no domain to adapt to beside {', '.join(labelled or domains) or 'one without a name'}",
                "a folder with domains is domain/class/picture; --source names those with labels",
            )
        for target in targets:
            others = labelled or tuple(domain for domain in domains if domain != target)
            yield Part(data, (Target(data, (target,)),), others, name=target, unlabelled=(target,))


def transfer(datasets: Sequence[BenchData], source: str) -> Iterator[Part]:
    """`source` is the data set to train on; what was opened begins with it."""
    first, *_ = datasets
    yield Part(first, tuple(Target(data) for data in datasets))


PROTOCOLS: dict[str, Callable[[Sequence[BenchData], str], Iterator[Part]]] = {
    "base-to-new": base_to_new,
    "cross-dataset": transfer,
    "domain-generalization": transfer,
    "leave-one-domain-out": leave_one_domain_out,
    "domain-adaptation": domain_adaptation,
    "few-shot": few_shot,
}
TRANSFERS = {"cross-dataset": OTHERS, "domain-generalization": VARIANTS}
"""Protocols that train on one data set and test on others, and on which when nobody says."""


def check_protocol(name: str) -> None:
    """Raises UnknownNameError."""
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)


def domains_of(data: BenchData, source: str) -> tuple[str, ...]:
    """The domains that a comma-separated list names, () for all.

    Raises UnknownNameError for one that doesn't exist, DataError where there are none.
    """
    named = tuple(split_names(source))
    if named and not data.dataset.domains:
        raise DataError(f"{data.path} has no domains, so there is no {named[0]!r}", "leave --source out")
    return subset(data.dataset, domains=named).domains if named else ()


def open_data(
    protocol: str,
    paths: Sequence[Path],
    names: Sequence[str],
    registry: Registry,
    source: str = "",
    policy: str = "given",
) -> list[BenchData]:
    """Read what a protocol is about, each data set once.

    With `names`, and for protocols that transfer with one path, they are data sets of the catalogue below that path;
    else every path is a data set of its own, named as its folder. Where a protocol transfers, the source comes first.
    Raises DataError for what can't be read, UnknownNameError, ConfigError for names and paths that don't go together.
    """
    check_protocol(protocol)
    if not paths:
        raise ConfigError("there is no data", "say where it is with --data PATH")
    transfers = protocol in TRANSFERS
    if names or (transfers and len(paths) == 1):
        if len(paths) > 1:
            raise ConfigError(
                f"--datasets are folders below one --data, and there are {len(paths)}", "leave one of the two out"
            )
        wanted = list(names or TRANSFERS[protocol])
        if transfers:
            wanted.insert(0, source or "imagenet")
        found = [_open_named(paths[0], name, registry, policy) for name in wanted]
        return list({data.name: data for data in found}.values())
    opened = [_open_folder(path, policy) for path in paths]
    by_name = {data.name: data for data in opened}
    if len(by_name) < len(opened):
        raise ConfigError(
            f"two of the data sets have the same name: {', '.join(data.path for data in opened)}",
            "results are told apart by it; rename one of the folders",
        )
    if transfers:
        if source not in by_name:
            raise UnknownNameError("data set to train on", source, by_name, f"--source is one of {', '.join(by_name)}")
        opened.sort(key=lambda data: data.name != source)
    return opened


def _open_named(root: Path, name: str, registry: Registry, policy: str) -> BenchData:
    named = registry.dataset(name)
    canonical = next(entry.name for entry in registry if entry.value is named)
    return BenchData(canonical, str(root), open_dataset(root, named, policy=policy), named)


def _open_folder(path: Path, policy: str) -> BenchData:
    # The same folder must have the same name, and the same settings, from wherever it is looked at.
    path = path.resolve()
    name = (path.stem if path.is_file() else path.name) or "data"
    return BenchData(name, str(path), open_dataset(path, policy=policy))
