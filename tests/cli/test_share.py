"""`promptkit push`, `pull` and "hf-hub:", against a small server in the hub's place."""

import base64
import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

import promptkit as package

Command = Callable[..., "Finished"]


def refusing(*words: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """What the client asks for to make a repository, commit files of ours, and fetch one."""

    repositories: ClassVar[dict[str, dict[str, bytes]]]
    refuses = 0
    """A status that every request is answered with."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def say(self, content: object, status: int = 200) -> None:
        self.answer(status, json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refuses:
            self.say({"error": "no"}, self.refuses)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.repositories.setdefault(name, {})
            self.say({"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
        elif self.path == "/api/validate-yaml":
            self.say({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            self.say({"files": files})
        else:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"http://{self.headers['Host']}/{name}/commit/{COMMIT}"
            self.say({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def do_GET(self) -> None:
        _, org, name, resolve, *rest = [*self.path.partition("?")[0].split("/"), "", "", ""]
        files = self.repositories.get(f"{org}/{name}")
        file = "/".join(part for part in rest[1:] if part)
        if self.refuses:
            self.say({"error": "no"}, self.refuses)
        elif files is None or resolve != "resolve":
            self.answer(404, b"", X_Error_Code="RepoNotFound")
        elif file not in files:
            self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        else:
            etag = hashlib.sha256(files[file]).hexdigest()[:40]
            self.answer(200, files[file], ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        self.do_GET()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    class Own(Hub):
        repositories: ClassVar = {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_for_a_test")
    yield Own
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_run_goes_to_the_hub_and_comes_back(
    hub: type[Hub], train: Command, promptkit: Command, images: Path, tmp_path: Path
) -> None:
    assert train("coop", "--out", "runs/mine").status == 0
    assert promptkit("eval", "runs/mine", "--keep").status == 0
    done = promptkit("push", "runs/mine", "me/shapes-coop")
    assert done.status == 0, done.err
    assert "/me/shapes-coop; say in its README.md under which licence" in done.out
    there = hub.repositories["me/shapes-coop"]
    assert sorted(there) == ["README.md", "learner.safetensors", "log.jsonl", "run.toml"]
    card = there["README.md"].decode()
    assert "Zhou et al., Learning to Prompt" in card
    assert "circle, cross, square, star" in card
    assert "| all pictures | " in card
    assert "# license: say" in card

    done = promptkit("pull", "me/shapes-coop")
    assert done.status == 0, done.err
    for name in ("learner.safetensors", "log.jsonl", "run.toml"):
        assert (tmp_path / "runs/shapes-coop" / name).read_bytes() == (tmp_path / "runs/mine" / name).read_bytes()
    picture = images / "photo/star/000.png"
    answers = package.load("hf-hub:me/shapes-coop", device="cpu")(picture)
    assert answers == package.load("runs/mine", device="cpu")(picture)
    assert promptkit("predict", "hf-hub:me/shapes-coop", picture).out == promptkit("predict", "runs/mine", picture).out
    done = promptkit("eval", "hf-hub:me/shapes-coop", "runs/mine")
    assert done.status == 0, done.err
    assert "shapes-coop" in done.out

    # What is wrong is said in one message.
    for words, message in (
        (["pull", "me/shapes-coop"], "runs/shapes-coop exists already"),
        (["pull", "me/nothing"], "no repository me/nothing at http"),
        (["pull", "nothing"], "'nothing' names no repository of the hub"),
        (["push", "runs/gone", "me/gone"], "runs/gone holds no run"),
        (["push", "runs/mine", "me/so/much"], "'me/so/much' names no repository of the hub"),
    ):
        done = promptkit(*words)
        assert done.status == 2, words
        assert message in done.err
        assert "Traceback" not in done.err
    hub.repositories["me/other"] = {"README.md": b"a model of somebody else's"}
    assert "/me/other holds no run of promptkit" in promptkit("pull", "me/other").err
    hub.repositories["me/damaged"] = {**there, "learner.safetensors": there["learner.safetensors"][:-8]}
    done = promptkit("pull", "me/damaged", "--out", "again")
    assert done.status == 2
    assert not (tmp_path / "again").exists()
    # A full disk, in the run's folder and in the client's cache; a copy that is there already is used.
    with pytest.MonkeyPatch.context() as full:
        full.setattr("shutil.copyfile", refusing)
        done = promptkit("pull", "me/shapes-coop", "--out", "again")
        assert done.status == 2
        assert "again can't be written: No space left on device" in done.err
        assert "choose another --out, or make room" in done.err
        done = promptkit("predict", "hf-hub:me/shapes-coop", picture)
        assert (done.status, "No space left on device; using the copy in" in " ".join(done.err.split())) == (0, True)
    with pytest.MonkeyPatch.context() as full:
        full.setattr("huggingface_hub.hf_hub_download", refusing)
        assert (
            "again can't be written: No space left on device"
            in promptkit("pull", "me/shapes-coop", "--out", "again").err
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "runs"]
    hub.refuses = 403
    done = promptkit("push", "runs/mine", "me/shapes-coop")
    assert done.status == 2
    assert "refuses runs/mine, to me/shapes-coop: 403" in done.err
