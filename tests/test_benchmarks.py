"""Every benchmark runs, and what both of its sides compute is equal."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks/run.py"


def test_every_table_in_its_quick_form() -> None:
    words = [sys.executable, BENCHMARKS, "all", "--quick", "--backbone", "tiny", "--threads", "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    tables = {row["table"] for row in rows}
    assert {"text", "steps", "eval", "largest"} <= tables
    assert [row["recipe"] for row in rows if row["table"] == "steps"] == ["coop", "cocoop", "gopro-reference"]
