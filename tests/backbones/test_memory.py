"""`memory_gb` is kept: a thousand classes for every picture of a batch, measured as resident memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "budget.py"


def step(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--backbone", "tiny", "--batch", "16", "--threads", "1", *words],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_a_step_with_a_thousand_classes_stays_in_its_budget() -> None:
    small, whole = step("--memory-gb", "0.1"), step("--memory-gb", "100")
    assert (small["chunks"], small["passes done"], whole["passes done"]) == (8, 16, 1)
    assert small["whole step"]
    assert whole["peak GB"] > 0.5  # or the budget would be none
    assert small["peak GB"] < 1.25 * 0.1
