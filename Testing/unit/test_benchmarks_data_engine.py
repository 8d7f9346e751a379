"""The benchmark of the training data: it prints its figure last and holds the claim."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")


def test_the_data_engine_tells_its_speed_last(repository):
    environment = {**os.environ, "PYTHONPATH": str(repository / "RAUSlicer" / "Logic"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(repository / "Benchmarks" / "data_engine.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d+\.\d slices of 192 pixels a second on one thread", lines[-1])
    assert 0.1 < float(re.search(r"mean Dice (\d\.\d+)", done.stdout)[1]) < 0.8
