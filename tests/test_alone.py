"""promptkit without a network, and without `fcntl`, as on Windows: one process imports all of it, trains and evaluates."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ALONE = """
import json, pkgutil, sys, traceback
from importlib import import_module

asked = []
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        asked.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")
        asked.extend(line for line in traceback.format_stack() if "promptkit" in line)
        raise OSError("there is no network")

sys.addaudithook(refuse)
sys.modules["fcntl"] = None

import promptkit
import promptkit.cli
for module in pkgutil.walk_packages(promptkit.__path__, "promptkit."):
    if not module.name.endswith("__main__"):
        import_module(module.name)

statuses = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["promptkit", *words]
    try:
        promptkit.cli.main()
    except SystemExit as end:
        statuses.append(end.code or 0)
print(json.dumps({"statuses": statuses, "asked": asked}))
"""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder, as open_clip writes one."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(open_clip.CLIP(**config).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def test_nothing_local_asks_the_network_or_for_fcntl(images: Path, clip: Path, tmp_path: Path) -> None:
    commands = []
    for name, backbone in (("demo", "demo"), ("local", f"local-dir:{clip}")):
        given = ("--data", str(images), "--backbone", backbone, "--shots", "1", "--epochs", "1", "--workers", "0")
        commands += [["train", "coop", *given, "--out", name], ["eval", name], ["runs", "."]]
    environment = {key: value for key, value in os.environ.items() if "OFFLINE" not in key and "ALBUMENT" not in key}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, json.dumps(commands)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["statuses"] == [0] * len(commands), done.stdout + done.stderr
    assert found["asked"] == []
