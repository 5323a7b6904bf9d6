"""Data sets by name, as a user meets them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageFilter

from promptkit import hookimpl
from promptkit.data.catalog import NamedDataset
from promptkit.data.layouts import read_dataset
from promptkit.testing import registered, write_images

Command = Callable[..., "Finished"]  # type: ignore[name-defined]
TINY = ("--backbone", "tiny", "--weights", "none", "--workers", "0", "--epochs", "1", "--shots", "2")
CUT = Path(__file__).parents[3] / "shared/data/coop"


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    """A data root with EuroSAT, without its split file."""
    folder = write_images(tmp_path / "root/eurosat/2750", ["circle", "cross", "star"], [], per_class=10)
    (folder / "star").rename(folder / "SeaLake")
    return tmp_path / "root"


def test_what_a_folder_is_taken_for(promptkit: Command, images: Path) -> None:
    done = promptkit("data", images)
    assert done.status == 0, done.err
    assert "2 domains, 4 classes, 64 pictures (<domain>/<class>/<image>)" in done.out
    (row,) = (line.split() for line in done.out.splitlines() if line.strip().startswith("circle"))
    assert row == ["circle", "8", "2", "6", "8", "8"]  # train, val, test, cartoon, photo


def test_every_image_is_opened_when_asked(promptkit: Command, eurosat: Path) -> None:
    (eurosat / "eurosat/2750/circle/003.png").write_bytes(b"no picture")
    done = promptkit("data", eurosat, "--dataset", "eurosat", "--split", "draw", "--check")
    assert done.status == 0, done.err
    assert "Sea or Lake" in done.out
    assert "template: a centered satellite photo of {}." in done.out
    assert "unreadable pictures: 1 of 30" in done.out
    assert "003.png" in done.out


def test_a_page_shows_what_looks_odd(promptkit: Command, tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        write_images(tmp_path / "set" / split, ["circle", "star"], [], per_class=8, size=96, seed=number)
    picture = Image.open(tmp_path / "set/train/star/003.png").convert("RGB")
    picture.resize((80, 80)).save(tmp_path / "set/test/circle/copy.jpg", quality=80)
    picture.filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "set/train/circle/soft.png")
    Image.new("RGB", (96, 96)).save(tmp_path / "set/train/circle/black.png")
    picture.crop((0, 0, 96, 12)).save(tmp_path / "set/test/star/strip.png")
    (tmp_path / "set/test/star/broken.png").write_bytes(b"no picture")
    done = promptkit("data", "set", "--html", "page.html")
    assert done.status == 0, done.err
    assert re.search(r"page: page.html \(0\.\d MB\); open it in a browser", done.out)
    page = (tmp_path / "page.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    figures = re.findall(r'<figure data-kind="(.+?)".+?</figure>', page, re.DOTALL)
    assert figures.count("a few of each") == 36
    shown = {
        kind: re.findall(
            r'title="(.+?)"', "".join(re.findall(rf'<figure data-kind="{kind}".+?</figure>', page, re.DOTALL))
        )
        for kind in ("near-duplicates", "of one colour", "blurred", "odd sizes")
    }
    assert shown == {
        "near-duplicates": ["train/star/003.png (train)", "test/circle/copy.jpg (test)"],
        "of one colour": ["train/circle/black.png (train)"],
        "blurred": ["train/circle/soft.png (train)"],
        "odd sizes": ["test/star/strip.png (test)"],
    }
    assert "<div>and circle</div>" in page  # of another class
    assert "broken.png: not a picture in a known format" in page
    assert re.search(
        r'<td>circle</td><td class="number" data-value="1">1</td><td class="number" data-value="10">10', page
    )
    done = promptkit("data", "set", "--html", "gone/page.html")
    assert (done.status, "gone/page.html can't be written" in done.err) == (2, True)


def test_what_looks_odd_leads_to_its_pictures(promptkit: Command, tmp_path: Path, browser: Any) -> None:
    write_images(tmp_path / "set", ["circle", "star"], [], per_class=4)
    Image.new("RGB", (32, 32)).save(tmp_path / "set/star/black.png")
    assert promptkit("data", "set", "--html", "page.html").status == 0
    view = browser.new_page()
    view.goto((tmp_path / "page.html").as_uri())
    view.select_option("#label", "circle")
    view.get_by_role("link", name="of one colour").click()
    assert view.inner_text("#count") == "1 picture: of one colour"
    assert view.get_by_text("star/black.png").is_visible()


def test_a_named_data_set_without_its_split_file(promptkit: Command, eurosat: Path) -> None:
    done = promptkit("train", "coop", "--data", eurosat, "--dataset", "eurosat", *TINY, "--out", "run")
    assert done.status == 2
    assert "split_zhou_EuroSAT.json" in done.err
    assert "--split draw" in done.err
    done = promptkit(
        "train", "coop", "--data", eurosat, "--dataset", "eurosat", "--split", "draw", *TINY, "--out", "run"
    )
    assert done.status == 0, done.err
    # The run remembers what it was trained on and how that was split.
    assert promptkit("eval", "run", "--json", "figures.json").status == 0
    content = json.loads(Path("figures.json").read_text())
    assert content["classes"] == ["Sea or Lake", "circle", "cross"]
    score = content["runs"]["run"]["all"]
    assert score["n"] == 9
    assert score["macro_accuracy"] == pytest.approx(sum(score["per_class"]) / 3)
    assert content["worst_domain"] == {"run": {"domain": "all", "accuracy": score["accuracy"]}}
    by_hand = promptkit(
        "eval", "run", "--data", eurosat, "--dataset", "EuroSAT", "--split", "draw", "--json", "again.json"
    )
    assert by_hand.status == 0, by_hand.err
    assert json.loads(Path("again.json").read_text())["runs"] == content["runs"]


def test_a_name_that_nobody_offers(promptkit: Command, eurosat: Path) -> None:
    done = promptkit("train", "coop", "--data", eurosat, "--dataset", "eurosta", *TINY)
    assert done.status == 2
    assert "no dataset named 'eurosta'; did you mean 'eurosat'?" in done.err


def test_zero_shot_takes_the_data_set_s_template_unless_told_otherwise(promptkit: Command, eurosat: Path) -> None:
    words = ("train", "zeroshot", "--data", eurosat, "--split", "draw", *TINY[:6])

    def template(*more: object) -> str:
        done = promptkit(*words, *more, "--out", "run", "--force")
        assert done.status == 0, done.err
        return Path("run/run.toml").read_text()

    assert 'template = "a centered satellite photo of {}."' in template("--dataset", "eurosat")
    chosen = template("--dataset", "eurosat", "--set", "prompts.template=imagenet")
    assert 'template = "imagenet"' in chosen
    Path("mine.txt").write_text("a {} from above.\n\nland: {}\n")
    assert "a {} from above." in template("--dataset", "eurosat", "--templates", "mine.txt")
    Path("mine.txt").write_text("a {} from above.\nland\n")
    done = promptkit(*words, "--dataset", "eurosat", "--templates", "mine.txt", "--out", "other")
    assert done.status == 2
    assert "prompts.template='land' needs one {}" in done.err
    done = promptkit(*words, "--dataset", "eurosat", "--templates", "nowhere.txt", "--out", "other")
    assert done.status == 2
    assert "nowhere.txt" in done.err


def test_a_plugin_s_data_set(promptkit: Command, tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def register_datasets(self, register: Callable[[str, object], None]) -> None:
            named = NamedDataset("Shapes", lambda root: read_dataset(root / "shapes"), "shapes/", "the test writes it")
            register("shapes", named)

    write_images(tmp_path / "shapes", domains=[])
    with registered(Plugin()):  # type: ignore[arg-type]
        done = promptkit("train", "coop", "--data", tmp_path, "--dataset", "shapes", *TINY, "--out", "run")
        assert done.status == 0, done.err
        assert "Shapes, at shapes/" in promptkit("list", "dataset").out


def test_a_plugin_that_offers_no_data_set_is_broken() -> None:
    from promptkit.errors import PluginError

    plugin = SimpleNamespace(register_datasets=hookimpl(lambda register: register("shapes", 3)))
    with pytest.raises(PluginError, match=r"expected a .*NamedDataset"), registered(plugin):  # type: ignore[arg-type]
        pass


@pytest.mark.skipif(not CUT.is_dir(), reason="needs the cut of Caltech-101, which is not part of the project")
def test_the_real_caltech101(promptkit: Command) -> None:
    done = promptkit("data", CUT, "--dataset", "caltech101")
    assert done.status == 2
    assert "split_zhou_Caltech101.json" in done.err
    done = promptkit("data", CUT, "--dataset", "caltech101", "--split", "draw")
    assert "Caltech101, 100 classes, 2000 pictures" in done.out


def test_what_a_training_uses_of_the_data_is_said(promptkit: Command, images: Path) -> None:
    words = ("train", "coop", "--data", images, *TINY, "--shots", 2, "--batch-size", 3, "--out", "run")
    done = promptkit(*words)
    assert done.status == 0, done.err
    assert "16 training pictures and 8 to validate of 64" in done.out
    # Five batches of three; the last picture is dropped.
    assert "less than a minute for the 6 pictures that are left, validation not counted" in done.out


def test_classes_of_one_name_or_without_a_training_picture_are_named(
    promptkit: Command, images: Path, tmp_path: Path
) -> None:
    names = ["Cat", "cat", "caf\u00e9", "cafe\u0301", "dog"]
    lines = [
        {"path": str(images / f"photo/{shape}/00{number}.png"), "label": name, "split": split}
        for number, split in enumerate(("train", "train", "test"))
        for shape, name in zip(("circle", "cross", "square", "star", "star"), names, strict=True)
        if name != "dog"
    ]
    lines.append({"path": str(images / "photo/star/003.png"), "label": "dog", "split": "test"})
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)))
    tiny = ("--data", manifest, *TINY)
    trained = promptkit("train", "coop", *tiny, "--out", "run")
    assert trained.status == 0, trained.err
    evaluated = promptkit("eval", "run")
    benched = promptkit("bench", "few-shot", *tiny, "--seeds", 1, "--learners", "zeroshot")
    for done in (trained, evaluated, benched):
        assert (
            "warning: to the text tower of tiny these classes have one name: "
            r"'Cat' = 'cat', 'cafe\u0301' = 'caf\xe9'; classnames.json can give them different ones" in done.err
        ), done.err
    assert "warning: classes without a training picture: dog" in trained.err
