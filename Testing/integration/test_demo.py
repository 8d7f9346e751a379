"""`rau demo`: its files, its table, its last line; the figures are those of the files."""

from __future__ import annotations

import re

import numpy as np
import pytest

from rau import demo
from rau.cli import main
from rau.settings import SegmentSettings
from rau.training.patient import ABSENT, patient_pair
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume

pytest.importorskip("sam2")
LAST = re.compile(r"mean Dice (\d\.\d{3}) over (\d+) structures, (\d+) s")


def test_files_table_and_last_line_agree(tmp_path, random_model, capsys):
    folder = tmp_path / "new" / "demo"
    settings = SegmentSettings(model=str(random_model), device="cpu", threads=1, seed=3)
    scores = demo.run(folder, settings, (10, 48, 48))
    lines = capsys.readouterr().out.splitlines()
    mean, count, _ = LAST.fullmatch(lines[-1]).groups()
    reference, (target, truth) = patient_pair(3, (10, 48, 48))
    found = read_labels(folder / "result.nii.gz")
    assert np.array_equal(found.array, read_labels(folder / "result.seg.nrrd").array)
    assert np.array_equal(read_volume(folder / "target.nii.gz").array, target.array)
    assert np.array_equal(read_volume(folder / "reference.nii.gz").array, reference.image.array)
    assert (folder / "overlay.png").read_bytes().startswith(b"\x89PNG")
    dice = []
    for one in truth.structures:
        both = np.count_nonzero((found.array == one.value) & (truth.array == one.value))
        dice.append(
            2 * both / (np.count_nonzero(found.array == one.value) + np.count_nonzero(truth.array == one.value))
        )
    assert float(mean) == pytest.approx(np.mean(dice), abs=5.1e-4)
    assert int(count) == len(dice) == len(truth.structures)
    (absent,) = [score for score in scores if not score.in_target]
    assert absent.structure.name == ABSENT
    row = next(line for line in lines if line.startswith(ABSENT))
    assert ("reported absent" in row) == (not absent.found)
    assert ("reported present" in row) == absent.found


def test_a_place_that_cannot_be_written_is_told_before_work(tmp_path, random_model, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--output", str(tmp_path / "file"), "--model", str(random_model)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("rau: ")
