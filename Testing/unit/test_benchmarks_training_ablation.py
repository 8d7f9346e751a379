"""The ablation of the training: it runs what is asked, tells what failed, and prints its figure last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")


def call(repository: Path, *more: str) -> subprocess.CompletedProcess[str]:
    logic = str(repository / "RAUSlicer" / "Logic")
    environment = {**os.environ, "PYTHONPATH": logic, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(repository / "Benchmarks" / "training_ablation.py"), *more]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=500)


@pytest.mark.slow
def test_a_few_steps_of_two_variants_are_compared(repository, tmp_path):
    done = call(repository, "--quick", "--check", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    alone, full = json.loads((tmp_path / "figures.json").read_text())["variants"]
    assert (alone["name"], full["name"]) == ("anatomies", "full mixture")
    assert all(one["steps"] == 3 and one["parameters"] > 3e6 and not one["error"] for one in (alone, full))
    assert set(alone["dice"]) == set(full["dice"]), "validated on the same, whatever was trained on"
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"mean validation Dice {full['mean']:.3f} ") and last.endswith("2 of 2 variants ran")


def test_a_variant_that_does_not_run_fails_the_check(repository, tmp_path):
    nowhere = ["--teacher", str(tmp_path / "nowhere"), "--variants", "and teacher", "--quick"]
    done = call(repository, *nowhere, "--check")
    assert done.returncode == 1
    assert "failed: " in done.stdout and "no DINOv2" in done.stdout and done.stdout.endswith("0 of 1 variants ran\n")


def test_an_unknown_variant_is_refused_in_one_line(repository):
    done = call(repository, "--variants", "smallest")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "smaller model" in done.stderr
