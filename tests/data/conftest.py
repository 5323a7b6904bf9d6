from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes empty files below a folder called data."""

    def write(*paths: str) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for path in paths:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return root

    return write


@pytest.fixture
def noise() -> Callable[..., Image.Image]:
    """Makes random pictures, another one for each seed."""

    def make(width: int = 32, height: int = 24, seed: int = 0) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return make
