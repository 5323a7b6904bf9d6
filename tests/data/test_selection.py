import math
import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptkit.data.layouts import Dataset, Item
from promptkit.data.selection import (
    SPLIT_POLICIES,
    class_subset,
    few_shot,
    select_evaluation,
    select_training,
    subset,
)
from promptkit.errors import ConfigError, DataError, UnknownNameError
from promptkit.settings import DataSettings

ROOT = Path("/data")
split = SPLIT_POLICIES["given"].split


def made(counts, domains=("",), split=None):
    """`counts[label]` pictures of every class in every domain."""
    items = [
        Item(ROOT / domain / f"class{label}" / f"{i:03}.jpg", label, domain, split)
        for domain in domains
        for label, count in enumerate(counts)
        for i in range(count)
    ]
    names = tuple(f"class{label}" for label in range(len(counts)))
    return Dataset(ROOT, "", names, tuple(d for d in domains if d), tuple(items), 0)


shapes = st.tuples(
    st.lists(st.integers(1, 25), min_size=2, max_size=5),
    st.sampled_from([("",), ("art",), ("art", "photo")]),
)


# Drawn splits


@settings(deadline=None, max_examples=50)
@given(shapes, st.integers(0, 2**32))
def test_drawn_splits_cover_everything_in_proportion(shape, seed):
    dataset = made(*shape)
    drawn = split(dataset, seed)
    assert [replace(i, split=None) for i in drawn.items] == list(dataset.items)
    for domain in dataset.domains or ("",):
        for label in range(len(dataset.classnames)):
            parts = [i.split for i in drawn.items if (i.domain, i.label) == (domain, label)]
            n = len(parts)
            assert parts.count("train") == math.ceil(n / 2)
            assert parts.count("val") == n // 5
            assert parts.count("test") == n - math.ceil(n / 2) - n // 5
            assert n == 1 or "test" in parts


@settings(deadline=None, max_examples=30)
@given(shapes, st.integers(0, 100), st.randoms(use_true_random=False))
def test_drawn_splits_ignore_the_order_of_items_and_the_rest_of_the_data(shape, seed, rng):
    dataset = made(*shape)
    parts = {i.path: i.split for i in split(dataset, seed).items}
    shuffled = list(dataset.items)
    rng.shuffle(shuffled)
    assert {i.path: i.split for i in split(replace(dataset, items=tuple(shuffled)), seed).items} == parts
    fewer = tuple(i for i in dataset.items if i.label == 1 and i.domain == dataset.items[-1].domain)
    assert all(i.split == parts[i.path] for i in split(replace(dataset, items=fewer), seed).items)


def test_drawn_splits_differ_between_seeds_and_stay_what_they_are():
    dataset = made([10, 10])
    assert split(dataset, 1) != split(dataset, 2)
    train = [i.path.name[:3] for i in split(dataset, 1).items if i.label == 0 and i.split == "train"]
    assert train == ["000", "002", "003", "005", "009"]  # a change here changes everybody's results


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train", "val", "test"), ("train", "val", "test")),
        (("train", "test"), ("train", "test")),
        (("train", "val"), ("train", "test")),
        (("train",), ("train",)),
        (("test",), ("test",)),
        (("val",), ("test",)),
    ],
)
def test_given_splits(splits, expected):
    items = [Item(ROOT / f"{name}/{label}.jpg", label, "", name) for name in splits for label in (0, 1)]
    dataset = Dataset(ROOT, "", ("a", "b"), (), tuple(items), 0)
    assert [i.split for i in split(dataset, 1).items] == [name for name in expected for _ in (0, 1)]


# Few shots


def published(train, val, shots, seed):
    """The rule of shared/datasets.md, word for word."""
    rng = random.Random(seed)

    def sample(items, k):
        by_label = defaultdict(list)
        for item in items:
            by_label[item.label].append(item)
        chosen = []
        for group in by_label.values():
            chosen.extend(rng.sample(group, k) if len(group) >= k else group)
        return chosen

    return sample(train, shots), sample(val, min(shots, 4))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 25), min_size=2, max_size=5),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 1000),
    st.randoms(use_true_random=False),
)
def test_few_shot_is_the_published_sample(counts, shots, seed, rng):
    items = list(split(made(counts), 0).items)
    rng.shuffle(items)  # labels in another order of first appearance
    dataset = replace(made(counts), items=tuple(items))
    by_split = {name: [i for i in items if i.split == name] for name in ("train", "val", "test")}
    train, val = published(by_split["train"], by_split["val"], shots, seed)
    sampled, _ = few_shot(dataset, shots, seed)
    assert list(sampled.items) == train + val + by_split["test"]


def test_few_shot_takes_shots_from_every_domain():
    dataset = split(made([20, 20], ("art", "photo")), 0)
    sampled, warnings = few_shot(dataset, 3, seed=1)
    train = [(i.domain, i.label) for i in sampled.items if i.split == "train"]
    assert {group: train.count(group) for group in train} == dict.fromkeys(
        [("art", 0), ("art", 1), ("photo", 0), ("photo", 1)], 3
    )
    assert warnings == []


def test_few_shot_warns_of_small_classes():
    assert few_shot(made([3, 8, 2], split="train"), 4, 1)[1] == [
        "fewer training pictures than 4 shots: class0 (3), class2 (2)"
    ]
    assert few_shot(made([1, 1], ("art",), "train"), 2, 1)[1] == [
        "fewer training pictures than 2 shots: art/class0 (1), art/class1 (1)"
    ]
    assert few_shot(made([1] * 13, split="train"), 2, 1)[1][0].endswith("class9 (1), and 3 more")


def test_few_shot_errors():
    with pytest.raises(ConfigError, match="shots=0"):
        few_shot(made([3, 3], split="train"), 0, 1)
    with pytest.raises(DataError, match="no training pictures to take 4 shots from"):
        few_shot(made([3, 3], split="test"), 4, 1)


# Base, new, listed


@given(st.integers(4, 40))
def test_base_and_new_share_out_the_classes(n):
    dataset = made([1] * n)
    base, new = class_subset(dataset, "base"), class_subset(dataset, "new")
    assert len(base.classnames) == math.ceil(n / 2)
    assert base.classnames + new.classnames == dataset.classnames
    for half in (base, new):
        assert [i.label for i in half.items] == list(range(len(half.classnames)))
        assert all(i.path.parent.name == half.classnames[i.label] for i in half.items)
    assert class_subset(dataset, "all") == dataset


def test_classes_from_a_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("class3\n\n  class1 \nclass3\n")
    dataset = class_subset(made([1, 2, 3, 4]), str(file))
    assert dataset.classnames == ("class1", "class3")
    assert dataset.counts() == (2, 4)


def test_class_subset_errors(tmp_path):
    file = tmp_path / "classes.txt"
    with pytest.raises(UnknownNameError, match="no choice of classes named 'bse'; did you mean 'base'") as caught:
        class_subset(made([1, 1]), "bse")
    assert caught.value.hint == "give all, base, new or a text file with one class name a line"
    file.write_text("class1\nclas2\n")
    with pytest.raises(UnknownNameError, match="no class named 'clas2'; did you mean 'class2'"):
        class_subset(made([1, 1, 1]), str(file))
    file.write_text("class1\n")
    with pytest.raises(DataError, match="leaves 1 of the 3 classes"):
        class_subset(made([1, 1, 1]), str(file))
    with pytest.raises(DataError, match="'new' leaves 1 of the 3 classes"):
        class_subset(made([1, 1, 1]), "new")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="can't be read"):
        class_subset(made([1, 1, 1]), str(file))


# Picking


def test_subset():
    dataset = split(made([10, 10], ("art", "photo", "sketch")), 0)
    picked = subset(dataset, "test", ["sketch", "art"])
    assert picked.domains == ("art", "sketch")
    assert {(i.domain, i.split) for i in picked.items} == {("art", "test"), ("sketch", "test")}
    assert len(picked.items) == 2 * 2 * 3
    assert subset(dataset) == dataset
    assert subset(made([1, 1], split="test"), "test").items == made([1, 1], split="test").items
    with pytest.raises(UnknownNameError, match="no domain named 'foto'; did you mean 'photo'"):
        subset(dataset, domains=["foto"])


# Policies, and the whole choice


def test_the_draw_policy_ignores_the_splits_of_the_data():
    kept = made([10, 10], split="train")
    assert SPLIT_POLICIES["given"].split(kept, 0) == kept
    drawn = SPLIT_POLICIES["draw"].split(kept, 0)
    assert drawn.items == split(made([10, 10]), 0).items
    assert (kept.split_source, drawn.split_source) == ("given", "drawn")


def test_training_is_split_then_sampled_then_restricted_to_its_classes():
    dataset = made([10, 10, 10], split="train")
    settings = DataSettings(split="draw", split_seed=3, shots=2, classes="base")
    expected = class_subset(few_shot(SPLIT_POLICIES["draw"].split(dataset, 3), 2, seed=5)[0], "base")
    assert select_training(dataset, settings, seed=5) == expected


def test_evaluation_takes_one_split_or_all_of_some_domains_and_classes():
    dataset = made([10] * 4, ("art", "photo"))
    chosen = select_evaluation(dataset, "test", split_seed=2, domains=["art"], classes="new")
    assert chosen.items == class_subset(subset(split(dataset, 2), "test", ["art"]), "new").items
    assert chosen.domains == ("art",)
    assert select_evaluation(dataset, "all") == dataset


def test_a_new_policy_is_one_entry(monkeypatch):
    from promptkit.data.selection import SplitPolicy

    def everything(dataset, seed):
        return replace(dataset, items=tuple(replace(item, split="test") for item in dataset.items))

    monkeypatch.setitem(SPLIT_POLICIES, "everything", SplitPolicy(everything))
    assert len(select_evaluation(made([3, 3]), policy="everything").items) == 6


def test_unknown_splits_and_policies():
    with pytest.raises(UnknownNameError, match="no split named 'tests'; did you mean 'test'"):
        select_evaluation(made([3, 3]), "tests")
    with pytest.raises(UnknownNameError, match="no split policy named 'drwa'; did you mean 'draw'"):
        select_training(made([3, 3]), DataSettings(split="drwa"), 1)
