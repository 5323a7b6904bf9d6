import json
import os
from pathlib import Path

import pytest

from promptkit.data.layouts import read_dataset
from promptkit.errors import DataError, UnknownNameError

REAL = Path(__file__).parents[2].parent / "shared/data"


def rows(dataset):
    return [(dataset.relative(i), dataset.classnames[i.label], i.domain, i.split) for i in dataset.items]


def error(path, **kwargs):
    with pytest.raises(DataError) as caught:
        read_dataset(path, **kwargs)
    return caught.value.message, caught.value.hint


# The five layouts


def test_class_folders(tree):
    root = tree("sea_lion/b.jpg", "sea_lion/a.PNG", "cat/1.webp")
    dataset = read_dataset(root)
    assert dataset.classnames == ("cat", "sea lion")
    assert rows(dataset) == [
        ("cat/1.webp", "cat", "", None),
        ("sea_lion/a.PNG", "sea lion", "", None),
        ("sea_lion/b.jpg", "sea lion", "", None),
    ]
    assert dataset.domains == ()
    assert dataset.layout == "2 classes, 3 pictures (<class>/<image>)"
    assert dataset.counts() == (1, 2)
    assert dataset.root == root


@pytest.mark.parametrize("val", ["val", "validation", "valid", "crossval", "Val"])
def test_split_folders(tree, val):
    dataset = read_dataset(tree("train/a/1.jpg", "train/b/1.jpg", f"{val}/a/2.jpg", "test/b/3.jpg"))
    assert sorted((i.path.name, i.split) for i in dataset.items) == [
        ("1.jpg", "train"),
        ("1.jpg", "train"),
        ("2.jpg", "val"),
        ("3.jpg", "test"),
    ]
    assert dataset.counts("train") == (1, 1)
    assert dataset.counts("test") == (0, 1)
    assert "<split>/<class>/<image>" in dataset.layout


def test_domain_folders(tree):
    dataset = read_dataset(tree("photo/dog/1.jpg", "photo/cat/1.jpg", "art/dog/1.jpg", "art/cat/1.jpg"))
    assert dataset.domains == ("art", "photo")
    assert rows(dataset)[0] == ("art/cat/1.jpg", "cat", "art", None)
    assert dataset.layout == "2 domains, 2 classes, 4 pictures (<domain>/<class>/<image>)"


def test_domain_and_split_folders(tree):
    dataset = read_dataset(
        tree("SUN/train/a/1.jpg", "SUN/crossval/b/1.jpg", "PASCAL/test/a/1.jpg", "PASCAL/train/b/1.jpg")
    )
    assert dataset.domains == ("PASCAL", "SUN")
    assert [(i.domain, i.split) for i in dataset.items] == [
        ("PASCAL", "test"),
        ("PASCAL", "train"),
        ("SUN", "val"),
        ("SUN", "train"),
    ]


def test_csv_manifest_keeps_its_order(tree):
    root = tree("pics/2.jpg", "pics/1.jpg")
    manifest = root / "list.csv"
    manifest.write_text(
        "\ufeff,path , label,split,domain\n0,pics/2.jpg,sea_lion,valid,art\n1, pics/1.jpg,cat,train,art\n"
    )
    dataset = read_dataset(manifest)
    assert rows(dataset) == [("pics/2.jpg", "sea lion", "art", "val"), ("pics/1.jpg", "cat", "art", "train")]
    assert dataset.layout == "1 domain, 2 classes, 2 pictures (list.csv)"
    assert read_dataset(root) == dataset  # found from the folder too


def test_jsonl_manifest(tree):
    root = tree("1.jpg", "2.jpg", "notes.txt")
    lines = [{"path": "1.jpg", "label": "7", "domain": None}, {"path": str(root / "2.jpg"), "label": "b"}]
    (root / "._list.jsonl").touch()  # macOS leaves these
    (root / "list.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    assert rows(read_dataset(root)) == [("1.jpg", "7", "", None), ("2.jpg", "b", "", None)]


def test_class_folders_win_over_a_manifest_beside_them(tree):
    root = tree("a/1.jpg", "b/1.jpg")
    (root / "list.csv").write_text("path,label\na/1.jpg,x\nb/1.jpg,y\n")
    assert read_dataset(root).classnames == ("a", "b")


def test_manifest_beside_split_folders_without_classes(tree):
    root = tree("train/1.jpg", "test/2.jpg")
    (root / "list.csv").write_text("path,label\ntrain/1.jpg,x\ntest/2.jpg,y\n")
    assert read_dataset(root).classnames == ("x", "y")


def test_class_called_like_a_split(tree):
    assert read_dataset(tree("train/1.jpg", "car/1.jpg")).classnames == ("car", "train")


# What is left out, what is followed


def test_other_and_hidden_files_are_counted(tree):
    root = tree("a/1.jpg", "b/1.jpg", "a/.hidden.jpg", "a/notes.txt", ".git/x.jpg", "README.md", "empty/readme.txt")
    dataset = read_dataset(root)
    assert len(dataset.items) == 2
    assert dataset.skipped == 5
    assert dataset.layout.endswith("(<class>/<image>, 1 folder without pictures)")


def test_links_are_followed_but_not_round_and_round(tree, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "1.jpg").touch()
    root = tree("a/1.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a/loop").symlink_to(root)
    (root / "a/self").symlink_to(root / "a/self")
    (root / "a/gone.jpg").symlink_to(root / "nothing")
    assert [path for path, *_ in rows(read_dataset(root))] == ["a/1.jpg", "a/gone.jpg", "b/1.jpg"]


def test_nothing_is_written(tree):
    root = tree("a/1.jpg", "b/1.jpg")
    before = sorted(root.rglob("*"))
    read_dataset(root).fingerprint()
    assert sorted(root.rglob("*")) == before


def test_fingerprint_follows_files_not_the_place(tree):
    root = tree("a/1.jpg", "b/1.jpg")
    first = read_dataset(root).fingerprint()
    moved = root.rename(root.with_name("moved"))
    assert read_dataset(moved).fingerprint() == first
    (moved / "a/1.jpg").write_bytes(b"x")
    assert read_dataset(moved).fingerprint() != first
    (moved / "a/1.jpg").rename(moved / "a/2.jpg")
    assert len({read_dataset(moved).fingerprint(), first}) == 2


def test_fingerprint_follows_what_is_said_of_the_images(tree):
    root = tree("a.jpg", "b.jpg", "c.jpg")
    manifest = root / "pictures.csv"
    rows = ["a.jpg,cat,photo,train", "b.jpg,dog,photo,train", "c.jpg,dog,photo,test"]

    def fingerprint(*rows):
        manifest.write_text("\n".join(["path,label,domain,split", *rows]))
        return read_dataset(manifest).fingerprint()

    first = fingerprint(*rows)
    assert fingerprint(*reversed(rows)) == first
    others = {
        fingerprint(*rows[:2], "c.jpg,cat,photo,test"),
        fingerprint(*rows[:2], "c.jpg,dog,photo,train"),
        fingerprint(*(row.replace("photo", "sketch") for row in rows)),
        fingerprint(*(row.replace("dog", "fox") for row in rows)),
    }
    assert len(others | {first}) == 5
    fingerprint(*rows)
    (root / "classnames.json").write_text('{"dog": "wolf"}')
    assert read_dataset(manifest).fingerprint() not in others | {first}


# Names, domains, classes


def test_classnames_json(tree):
    root = tree("n01/1.jpg", "n02/1.jpg", "great_owl/1.jpg")
    (root / "classnames.json").write_text('{"n02": "tench", "n99": "not here"}')
    dataset = read_dataset(root)
    assert dataset.classnames == ("great owl", "n01", "tench")
    assert dataset.skipped == 0


def test_classnames_txt(tree):
    root = tree("n01/1.jpg", "n02/1.jpg")
    (root / "classnames.txt").write_text("n01 great white shark\n\nn02 tench\n")
    assert read_dataset(root).classnames == ("great white shark", "tench")


def test_classes_by_folder_or_name_are_numbered_from_0(tree):
    root = tree("a_a/1.jpg", "b/1.jpg", "c_c/1.jpg")
    dataset = read_dataset(root, classes=["c_c", "a a"])
    assert rows(dataset) == [("a_a/1.jpg", "a a", "", None), ("c_c/1.jpg", "c c", "", None)]
    assert [i.label for i in dataset.items] == [0, 1]


def test_domains_restrict_and_only_they_have_to_agree(tree):
    root = tree("photo/dog/1.jpg", "photo/cat/1.jpg", "art/dog/1.jpg", "art/cat/1.jpg", "sketch/dog/1.jpg")
    dataset = read_dataset(root, domains=["photo", "art"])
    assert dataset.domains == ("art", "photo")
    assert len(dataset.items) == 4


def test_domains_have_to_agree(tree):
    root = tree("photo/dog/1.jpg", "photo/cat/1.jpg", "photo/owl/1.jpg", "sketch/dog/1.jpg", "sketch/elk/1.jpg")
    (root / "sketch/owl").mkdir()
    message, hint = error(root)
    assert message == f"{root}/photo lacks class folders that other domains have: elk"
    assert hint == "every domain needs the same classes; --classes restricts them"
    (root / "sketch/elk/1.jpg").unlink()
    assert error(root)[0] == f"{root}/sketch lacks class folders that other domains have: cat, owl (empty)"
    with pytest.raises(DataError, match="only one class"):
        read_dataset(root, classes=["dog"])


def test_classes_make_domains_agree(tree):
    root = tree("photo/dog/1.jpg", "photo/cat/1.jpg", "photo/owl/1.jpg", "sketch/dog/1.jpg", "sketch/cat/1.jpg")
    assert read_dataset(root, classes=["dog", "cat"]).classnames == ("cat", "dog")


def test_a_domain_without_any_of_the_classes_does_not_vanish(tree):
    root = tree("photo/dog/1.jpg", "photo/cat/1.jpg", "photo/owl/1.jpg", "sketch/owl/1.jpg")
    assert error(root, classes=["dog", "cat"])[0].endswith(
        "sketch lacks class folders that other domains have: cat, dog"
    )


def test_unknown_domain_and_class(tree):
    root = tree("photo/sea_lion/1.jpg", "photo/cat/1.jpg")
    with pytest.raises(UnknownNameError, match="no domain named 'foto'; did you mean 'photo'"):
        read_dataset(root, domains=["foto"])
    with pytest.raises(UnknownNameError, match="no class named 'sea_lyon'; did you mean 'sea lion'"):
        read_dataset(root, classes=["sea_lyon"])


def test_domains_where_there_are_none(tree):
    root = tree("a/1.jpg", "b/1.jpg")
    assert error(root, domains=["photo"]) == (
        f"{root} has no domains, so there is no 'photo'",
        "leave --domains out",
    )


# Errors


def test_missing_folder_names_its_neighbour(tree):
    root = tree("pacs/a/1.jpg")
    assert error(root / "pasc")[0] == f"no folder or manifest {root}/pasc; did you mean '{root}/pacs'?"
    message, hint = error(root / "imagenet/train")
    assert message == f"no folder or manifest {root}/imagenet/train"
    assert hint == f"{root.resolve()} has no 'imagenet'"


def test_several_manifests(tree):
    root = tree("train.csv", "test.csv", "1.jpg")
    assert error(root) == (f"{root} holds several manifests and no class folders", "give one of test.csv, train.csv")


def test_path_is_a_file(tree):
    root = tree("a/1.jpg", "notes.txt")
    assert error(root / "a/1.jpg")[0] == f"{root}/a/1.jpg is a picture"
    assert error(root / "notes.txt")[0] == f"{root}/notes.txt is neither a folder nor a manifest (*.csv, *.jsonl)"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["notes.txt"], "holds no pictures"),
        (["1.jpg", "2.jpg"], "holds pictures, but no class folders"),
        (["dog/1.jpg"], "has only one class, 'dog'; two or more are needed"),
        (["a/1.jpg", "b/c/1.jpg"], "has pictures at different depths: a/<image> and b/c/<image>"),
        (["1.jpg", "b/1.jpg"], "has pictures at different depths: <image> and b/<image>"),
        (["train/1.jpg", "test/1.jpg"], "has pictures at test/<image>, which is no known layout"),
        (["a/train/1.jpg", "b/test/1.jpg"], "has pictures at a/train/<image>, which is no known layout"),
        (["x/photo/dog/1.jpg", "x/art/dog/1.jpg"], "has pictures at x/art/dog/<image>, which is no known layout"),
        (["a/b/c/d/1.jpg", "a/b/c/e/1.jpg"], "has pictures at a/b/c/d/<image>, which is no known layout"),
        (
            ["train/a/1.jpg", "test/a/1.jpg", "extra/a/1.jpg"],
            "can be read in two ways: <split>/<class>/<image>, but extra is no split; "
            "or <domain>/<class>/<image>, with test, train as domains",
        ),
        (
            ["dogs/pug/1.jpg", "dogs/elkhound/1.jpg", "cats/manx/1.jpg"],
            "can be read in two ways: <domain>/<class>/<image>, but the domains cats, dogs have no class in common; "
            "or <class>/<image>, but the pictures lie one folder deeper",
        ),
        (["sea_lion/1.jpg", "sea lion/1.jpg"], ": classes 'sea lion' and 'sea_lion' have the same name, 'sea lion'"),
        (["_/1.jpg", "a/1.jpg"], "class '_' of {root} has an empty name"),
    ],
)
def test_unclear_folders(tree, paths, expected):
    root = tree(*paths)
    message, hint = error(root)
    assert expected.format(root=root) in message
    assert str(root) in message
    assert hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", " has no column path, label"),
        ("path,class\n1.jpg,a\n", " has no column label"),
        ("path,label\n", " lists no pictures"),
        ("path,label\n1.jpg,a\n,b\n", ", line 3: no path"),
        ("path,label\n1.jpg\n", ", line 2: no label"),
        ("path,label\n1.jpg,a,b\n", ", line 2: more fields than columns"),
        ("path,label\n1.jpg,a\n3.jpg,b\n", ", line 3: no file {root}/3.jpg"),
        ("path,label\n1.jpg,a\n1.jpg,b\n", ", line 3: 1.jpg is in line 2 already"),
        ("path,label,split\n1.jpg,a,trian\n", ", line 2: split 'trian' is none of train, val, validation"),
        ("path,label,split\n1.jpg,a,train\n2.jpg,b,\n", ", line 3: some pictures have a split and some have none"),
        ("path,label,domain\n1.jpg,a,\n2.jpg,b,art\n", ", line 3: some pictures have a domain and some have none"),
        ("path,label\n1.jpg,a\n2.jpg,a\n", " has only one class, 'a'"),
        (
            "path,label,domain\n1.jpg,a,x\n2.jpg,b,y\n",
            "domain 'x' of {manifest} lacks classes that other domains have: b",
        ),
    ],
)
def test_csv_errors(tree, text, expected):
    root = tree("1.jpg", "2.jpg")
    manifest = root / "list.csv"
    manifest.write_text(text)
    message, _ = error(manifest)
    assert expected.format(root=root, manifest=manifest) in message
    assert str(manifest) in message


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"path": "1.jpg", "label": "a"}\n{"path": \n', ", line 2: not JSON"),
        (b'{"path": "1.jpg", "label": "a"}\n\n[1]\n', ", line 3: not a JSON object"),
        (b"\xff\xfe\n", " can't be read"),
    ],
)
def test_jsonl_errors(tree, data, expected):
    manifest = tree("1.jpg") / "list.jsonl"
    manifest.write_bytes(data)
    assert f"{manifest}{expected}" in error(manifest)[0]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("classnames.json", "{", "can't be read"),
        ("classnames.json", '["a"]', "can't be read: Input should be an object"),
        ("classnames.json", '{"a": 1}', "can't be read: it has no sound a"),
        ("classnames.txt", "a x\nb\n", ", line 2: no name after 'b'"),
    ],
)
def test_classnames_errors(tree, name, text, expected):
    root = tree("a/1.jpg", "b/1.jpg")
    (root / name).write_text(text)
    message, _ = error(root)
    assert f"{root}/{name}" in message
    assert expected in message


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_locked_folder(tree):
    root = tree("a/1.jpg", "b/1.jpg")
    (root / "b").chmod(0)
    assert error(root)[0] == f"{root}/b can't be read: Permission denied"


# Real data


@pytest.mark.skipif(not (REAL / "pacs-mini").is_dir(), reason="no shared/data/pacs-mini")
def test_real_pacs():
    dataset = read_dataset(REAL / "pacs-mini")
    assert dataset.layout == "4 domains, 7 classes, 1120 pictures (<domain>/<class>/<image>)"
    assert dataset.counts() == (160,) * 7
    assert dataset.skipped == 0


@pytest.mark.skipif(not (REAL / "coop/caltech-101").is_dir(), reason="no shared/data/coop/caltech-101")
def test_real_caltech():
    dataset = read_dataset(REAL / "coop/caltech-101/101_ObjectCategories")
    assert dataset.layout == "102 classes, 2040 pictures (<class>/<image>)"
    assert "wild cat" in dataset.classnames
    assert read_dataset(REAL / "coop/caltech-101").domains == ("101_ObjectCategories",)
