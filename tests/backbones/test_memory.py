"""`memory_gb` is kept: a thousand classes for every picture of a batch, measured as resident memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "budget.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux does")
def test_a_step_with_a_thousand_classes_stays_in_its_budget() -> None:
    """One picture with its thousand classes fits."""
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--backbone", "tiny", "--batch", "16", "--memory-gb", "0.07", "--threads", "1"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Seven keep their blocks' inputs, or all; the others are computed twice.
    assert (found["chunks"], found["passes done"], found["whole step"]) == (16, 25, True)
    assert found["peak GB"] < 0.07
