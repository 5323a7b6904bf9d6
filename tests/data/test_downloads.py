"""`promptkit data get`, against small servers in the place of the publishers, of the split files and of the hub."""

import errno
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import Flowers102, utils

from promptkit.data.downloads import declared
from promptkit.data.downloads.declared import DOWNLOADS, Hub, Torchvision
from promptkit.data.downloads.fetching import git_name

Command = Callable[..., "Finished"]
Files = Mapping[str, bytes]


def picture(color: int = 0) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 40), (color, 80, 160)).save(out, "JPEG")
    return out.getvalue()


def tar(files: Files) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def packed(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def mat(**arrays: object) -> bytes:
    out = io.BytesIO()
    scipy.io.savemat(out, arrays)
    return out.getvalue()


JPG = picture()
TEXTURES = [f"{name}/{name}_{number:04}.jpg" for name in ("banded", "dotted") for number in range(4)]
LISTS = {f"images_variant_{split}.txt": b"0001 A340-200\n" for split in ("train", "val", "test", "trainval")}

ORIGINALS: dict[str, tuple[Files, list[str]]] = {
    "dtd": (
        {"dtd-r1.0.1.tar.gz": tar(
            {f"dtd/images/{path}": picture(30 * at) for at, path in enumerate(TEXTURES)}
            | {"dtd/labels/train1.txt": "\n".join(TEXTURES).encode()}
        )},
        TEXTURES,
    ),
    "oxford_flowers": (
        {
            "102flowers.tgz": tar({"jpg/image_00001.jpg": JPG}),
            "imagelabels.mat": mat(labels=[[1, 1]]),
            "setid.mat": mat(trnid=[[1, 1]], valid=[[1, 1]], tstid=[[1, 1]]),
        },
        ["image_00001.jpg"],
    ),
    "food101": (
        {"food-101.tar.gz": tar({
            "food-101/images/apple_pie/1.jpg": JPG, "food-101/meta/train.json": b'{"apple_pie": ["apple_pie/1"]}',
        })},
        ["apple_pie/1.jpg"],
    ),
    "eurosat": ({"EuroSAT.zip": packed({"2750/Forest/Forest_1.jpg": JPG})}, ["Forest/Forest_1.jpg"]),
    "oxford_pets": (
        {
            "images.tar.gz": tar({"images/Abyssinian_1.jpg": JPG}),
            "annotations.tar.gz": tar({"annotations/trainval.txt": b"Abyssinian_1 1 1 1\n"}),
        },
        ["Abyssinian_1.jpg"],
    ),
    "caltech101": (
        {"caltech-101.zip": packed({"caltech-101/101_ObjectCategories.tar.gz": tar({
            "101_ObjectCategories/ant/image_0001.jpg": JPG, "101_ObjectCategories/BACKGROUND_Google/image_0001.jpg": JPG,
        })})},
        ["ant/image_0001.jpg"],
    ),
    "fgvc_aircraft": (
        {"fgvc-aircraft-2013b.tar.gz": tar({
            f"fgvc-aircraft-2013b/data/{name}": content
            for name, content in {"images/0001.jpg": JPG, "variants.txt": b"A340-200\n", **LISTS}.items()
        })},
        [],
    ),
}  # fmt: skip
"""What publishers have, in the form that torchvision's classes expect, and the pictures of the split file."""


class Site(BaseHTTPRequestHandler):
    """Has files by the last part of their address."""

    files: ClassVar[dict[str, bytes]]
    asked: ClassVar[list[str]]
    url: ClassVar[str]

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.asked.append(name)
        if name not in self.files:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.files[name])))
        self.end_headers()
        self.wfile.write(self.files[name])

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Site]]:
    """In the place of all publishers; torchvision expects the checksums of what it has at first."""

    class Own(Site):
        files: ClassVar = {}
        asked: ClassVar = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, daemon=True).start()
    Own.url = f"http://127.0.0.1:{server.server_port}"
    download, sums = utils.download_url, {}

    def moved(url: str, root: str, filename: str | None = None, md5: str | None = None) -> None:
        name = os.path.basename(url)
        if name in Own.files:
            sums.setdefault(name, hashlib.md5(Own.files[name]).hexdigest())
        download(f"{Own.url}/{name}", root, filename, md5 and sums.get(name))

    monkeypatch.setattr("torchvision.datasets.utils.download_url", moved)
    monkeypatch.setattr("torchvision.datasets.flowers102.download_url", moved)
    monkeypatch.setattr(declared, "SPLITS", f"{Own.url}/splits")
    yield Own
    server.shutdown()
    server.server_close()


def publish(site: type[Site], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the site a data set and its split file, and the declaration their checksums."""
    files, pictures = ORIGINALS[name]
    site.files.update(files)
    known = DOWNLOADS[name]
    source = known.source
    assert isinstance(source, Torchvision)
    if source.md5:
        source = replace(source, md5={file: hashlib.md5(files[file]).hexdigest() for file in source.md5})
    split = add_split(site, name, pictures) if known.split else ""
    monkeypatch.setitem(DOWNLOADS, name, replace(known, source=source, size=1000, split=split))
    if name == "oxford_flowers":
        sums = {kind: (file, hashlib.md5(files[file]).hexdigest()) for kind, (file, _) in Flowers102._file_dict.items()}
        monkeypatch.setattr(Flowers102, "_file_dict", sums)


SPLIT_FILES = {
    "dtd": "DescribableTextures", "oxford_flowers": "OxfordFlowers", "food101": "Food101", "eurosat": "EuroSAT",
    "oxford_pets": "OxfordPets", "caltech101": "Caltech101", "ucf101": "UCF101",
}  # fmt: skip


def add_split(site: type[Site], name: str, pictures: list[str]) -> str:
    """Every third picture validates, every fourth tests."""
    names = sorted({path.partition("/")[0] for path in pictures})
    rows = [[path, names.index(path.partition("/")[0]), path.partition("/")[0]] for path in pictures]
    lists = {"train": rows[0::4] + rows[1::4], "val": rows[2::4], "test": rows[3::4] or rows}
    content = json.dumps(lists).encode()
    site.files[f"split_zhou_{SPLIT_FILES[name]}.json"] = content
    return git_name(content)


@pytest.mark.parametrize("name", ORIGINALS)
def test_what_torchvision_downloads_is_laid_out_as_coop_has_it(
    name: str, site: type[Site], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, name, monkeypatch)
    done = promptkit("data", "get", name, "--to", "data")
    assert done.status == 0, done.err
    assert f"next: promptkit train coop --dataset {name} --data data" in done.out
    assert ("the split file, CoOp's, as github.com/linzhiqiu/cross_modal_adaptation has it" in done.out) == (
        name != "fgvc_aircraft"
    )
    (folder,) = (tmp_path / "data").iterdir()  # nothing beside it
    left = [path.name for path in folder.rglob("*") if path.name.endswith((".gz", ".tgz", ".zip"))]
    assert not left
    shown = promptkit("data", "data", "--dataset", name, "--check")
    assert shown.status == 0, shown.err
    assert "unreadable pictures: 0 of" in shown.out

    asked = list(site.asked)
    again = promptkit("data", "get", name, "--to", "data")
    assert (again.status, "all of it was there" in again.out) == (0, True)
    assert site.asked == asked


def test_from_the_name_to_a_trained_learner(
    site: type[Site], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And pictures that are there already get the split file alone."""
    publish(site, "dtd", monkeypatch)
    assert promptkit("data", "get", "DTD", "--to", "data").status == 0
    tiny = ("--backbone", "tiny", "--weights", "none", "--workers", 0, "--epochs", 1, "--shots", 2)
    done = promptkit("train", "coop", "--dataset", "dtd", "--data", "data", *tiny)
    assert done.status == 0, done.err
    assert (tmp_path / "runs/coop/learner.safetensors").exists()

    split = tmp_path / "data/dtd/split_zhou_DescribableTextures.json"
    before = split.read_bytes()
    split.unlink()
    site.asked.clear()
    done = promptkit("data", "get", "dtd", "--to", "data")
    assert (done.status, split.read_bytes()) == (0, before)
    assert site.asked == [split.name]
    (tmp_path / "data/dtd/images" / TEXTURES[0]).unlink()
    done = promptkit("data", "get", "dtd", "--to", "data")
    assert done.status == 2
    assert "data/dtd is there, and is not whole: 1 of 8 pictures are missing" in done.err


def test_when_it_is_stopped_the_archive_is_kept_and_half_of_what_was_in_it_is_not(
    site: type[Site], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, "dtd", monkeypatch)

    def half(archive: str, folder: str, compression: str) -> None:
        with tarfile.open(archive) as held:
            held.extractall(folder, held.getmembers()[:3], filter="data")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(utils._ARCHIVE_EXTRACTORS, ".tar", half)
        done = promptkit("data", "get", "dtd", "--to", "data")
    assert (done.status, "the same command goes on" in done.out) == (130, True)
    assert not (tmp_path / "data/dtd").exists()
    (tmp_path / "data/.dtd.part/pictures/dtd/dtd/images/rubbish.jpg").write_bytes(b"")
    done = promptkit("data", "get", "dtd", "--to", "data")
    assert done.status == 0, done.err
    assert site.asked.count("dtd-r1.0.1.tar.gz") == 2  # an address is asked where it leads, then for the file
    assert len(list((tmp_path / "data/dtd/images").rglob("*.jpg"))) == len(TEXTURES)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dtd"]


def test_what_goes_wrong_is_said_and_leaves_nothing_that_looks_whole(
    site: type[Site], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(site, "dtd", monkeypatch)

    def fails(message: str, *words: str) -> None:
        done = promptkit("data", "get", *(words or ("dtd",)), "--to", "data")
        assert done.status == 2, done.out
        assert message in " ".join(done.err.split())
        assert "Traceback" not in done.err
        assert not (tmp_path / "data/dtd").exists()

    fails("no dataset named 'eurosta'; did you mean 'eurosat'?", "eurosta")
    fails("promptkit can't get ImageNet hint: ask at image-net.org, after a registration there", "imagenet")
    done = promptkit("data", "get", "dtd")
    assert "such as: promptkit data get dtd --to data" in done.err
    known, archive = DOWNLOADS["dtd"], site.files["dtd-r1.0.1.tar.gz"]
    monkeypatch.setitem(DOWNLOADS, "dtd", replace(known, size=10**18))
    fails("DTD takes about 2000000000.0 GB while it is unpacked")
    monkeypatch.setitem(DOWNLOADS, "dtd", replace(known, split="0" * 40))
    fails("split_zhou_DescribableTextures.json is not what it was: its checksum differs")
    monkeypatch.setitem(DOWNLOADS, "dtd", known)
    with monkeypatch.context() as patch:
        patch.setattr("torchvision.datasets.utils._urlretrieve", refusing)
        fails("No space left on device hint: make room, or choose another --to")
    del site.files["dtd-r1.0.1.tar.gz"]
    fails("torchvision's DTD can't be had: HTTP Error 404: Not Found hint: check the network, and try again")
    site.files["dtd-r1.0.1.tar.gz"] = archive[:-9]  # what came before had another checksum
    fails("torchvision's DTD can't be had: File not found or corrupted.")
    site.files["dtd-r1.0.1.tar.gz"] = archive
    monkeypatch.setattr(declared, "SPLITS", "http://127.0.0.1:9")
    fails("the split file split_zhou_DescribableTextures.json can't be had: [Errno")
    monkeypatch.setattr(declared, "SPLITS", f"{site.url}/splits")
    done = promptkit("data", "get", "dtd", "--to", "data")
    assert done.status == 0, done.err


def refusing(*words: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_from_the_hub(
    hub: Any, site: type[Site], promptkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the split file that is declared, whatever the archive has; and without names of ImageNet's classes."""
    pictures = [f"Archery/v_Archery_g0{number}.jpg" for number in range(4)]
    files = {f"ucf101/UCF-101-midframes/{path}": JPG for path in pictures}
    archive = packed(files | {"ucf101/split_zhou_UCF101.json": b"{}"})
    v2 = tar({f"imagenetv2-matched-frequency-format-val/{label}/a.jpg": JPG for label in range(2)})
    split = add_split(site, "ucf101", pictures)
    for name, content, words in (("ucf101", archive, {"split": split}), ("imagenetv2", v2, {})):
        known = DOWNLOADS[name]
        assert isinstance(known.source, Hub)
        source = replace(known.source, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(DOWNLOADS, name, replace(known, source=source, size=1000, **words))
        hub.repositories.setdefault(source.repository, {})[source.file] = content + b"\0" * (name == "ucf101")

    done = promptkit("data", "get", "ucf101", "--to", "data")
    assert done.status == 2
    assert "ucf101.zip of zhengli97/prompt_learning_dataset is not what it was: its checksum differs" in done.err
    hub.repositories["zhengli97/prompt_learning_dataset"]["ucf101.zip"] = archive
    done = promptkit("data", "get", "ucf101", "imagenetv2", "--to", "data")
    assert done.status == 0, done.err
    assert "UCF101, 1 classes, 4 pictures (split_zhou_UCF101.json)" in done.out
    assert (tmp_path / "data/ucf101/split_zhou_UCF101.json").read_bytes() == site.files["split_zhou_UCF101.json"]
    assert "its classes have no names yet: put classnames.txt into data/imagenet" in done.out
    (tmp_path / "data/imagenet").mkdir()
    (tmp_path / "data/imagenet/classnames.txt").write_text("n01440764 tench\nn01443537 goldfish\n")
    hub.refuses = 403
    done = promptkit("data", "get", "imagenetv2", "--to", "data")
    assert (done.status, "ImageNetV2, 2 classes, 2 pictures (test only)" in done.out) == (0, True)
    assert (tmp_path / "data/imagenetv2/classnames.txt").exists()
    done = promptkit("data", "get", "ucf101", "--to", "other")
    assert done.status == 2
    assert "the hub's zhengli97/prompt_learning_dataset can't be had: " in done.err
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 can't be reached" in promptkit("data", "get", "ucf101", "--to", "other").err


def test_what_can_be_had(promptkit: Command) -> None:
    out = " ".join(promptkit("data", "get").out.split())
    assert "dtd torchvision's DTD 626.0 MB research" in out
    assert "sun397 the hub's zhengli97/prompt_learning_dataset 39.2 GB none stated" in out
    missing = out.partition("not to be had here")[2]
    assert "imagenet_r github.com/hendrycks/imagenet-r" in missing
    assert all(name not in missing for name in DOWNLOADS)
