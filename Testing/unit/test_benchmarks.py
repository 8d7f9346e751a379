"""The benchmarks as scripts, on small sets made here: what they print, write and exit with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rau.models.store import known_models

needs_model = pytest.mark.skipif("rau-mini" not in known_models(), reason="the bundled model is not here")


def disc_case(folder: Path, seed: int) -> None:
    """A bright disc on a dark ground."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((96, 96))
    mask = (rows - 48 - rng.integers(-6, 6)) ** 2 + (columns - 48 - rng.integers(-6, 6)) ** 2 < 22**2
    folder.mkdir(parents=True)
    image = np.clip(60 + 120 * mask + rng.normal(0, 10, mask.shape), 0, 255)
    Image.fromarray(image.astype(np.uint8)).save(folder / "image.png")
    Image.fromarray(mask.astype(np.uint8)).save(folder / "labels.png")


@pytest.fixture
def data(tmp_path) -> Path:
    for number in range(3):
        disc_case(tmp_path / "discs" / f"case_{number}", number)
    told = {"modality": "", "dims": 2, "structures": {"1": "disc"}, "licence_allows_training": False}
    cases = {f"case_{number}": {} for number in range(3)}
    (tmp_path / "discs" / "set.json").write_text(json.dumps({**told, "cases": cases}))
    return tmp_path


def call(repository: Path, script: str, data: Path, *more: str) -> subprocess.CompletedProcess[str]:
    logic = str(repository / "RAUSlicer" / "Logic")
    environment = {**os.environ, "RAU_DATA": str(data), "PYTHONPATH": logic, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(repository / "Benchmarks" / script), *more]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, timeout=300)


@needs_model
@pytest.mark.slow
def test_a_set_runs_and_its_figures_and_pictures_are_written(repository, data):
    out, pictures = data / "figures.json", data / "pictures"
    more = ["--limit", "2", "--json", str(out), "--pictures", str(pictures), "--baselines", str(data / "kept.json")]
    done = call(repository, "evaluation_sets.py", data, "--sets", "discs", *more)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("1 of 1 sets ran") and "mean margin over 1" in done.stdout
    pairs = json.loads(out.read_text())["sets"]["discs"]
    assert [one["pair"] for one in pairs] == ["case_2 -> case_0", "case_0 -> case_1"]
    assert all(0 <= one["dice"] <= 1 and not one["error"] for one in pairs)
    assert all(0.5 < one["baselines"][name]["dice"] <= 1 for one in pairs for name in ("copying", "bspline"))
    assert f"{np.mean([one['dice'] for one in pairs]):.3f}" in done.stdout
    assert (pictures / "discs.png").is_file()
    again = call(repository, "evaluation_sets.py", data, "--sets", "discs", *more)
    assert again.stdout.count("B-spline 0.") + again.stdout.count("B-spline 1.") == 2 and "(kept)" in again.stdout


@needs_model
@pytest.mark.slow
def test_a_broken_case_is_told_and_the_others_run(repository, data):
    (data / "discs" / "case_1" / "image.png").write_bytes(b"no picture")
    done = call(repository, "evaluation_sets.py", data, "--sets", "discs", "--check")
    assert done.returncode == 1
    assert done.stdout.count("failed: ") == 2 and done.stdout.count("copying 0.") == 1
    assert "Traceback" not in done.stderr and "did not run to the end: discs" in done.stdout


@needs_model
def test_without_data_one_line_says_what_to_do(repository, tmp_path):
    for script in ("hippocampus.py", "evaluation_sets.py"):
        done = call(repository, script, tmp_path, "--quick")
        assert done.returncode == 2 and "RAU_DATA" in done.stderr and len(done.stderr.splitlines()) == 1


def test_without_cuda_the_check_of_it_ends_well(repository, data):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("CUDA is here: make gpu-check")
    done = call(repository, "gpu_check.py", data)
    assert done.returncode == 0 and "No CUDA" in done.stdout


@needs_model
@pytest.mark.slow
def test_hippocampus_quick_on_the_real_images(repository, shared_data):
    """Three real pairs: all three methods, and the command line gives the same voxels."""
    done = call(repository, "hippocampus.py", shared_data, "--quick")
    assert done.returncode == 0, done.stderr
    assert "`rau segment` gives the same voxels as the engine" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("mean Dice 0.") and "over 3 of 3 pairs" in done.stdout
