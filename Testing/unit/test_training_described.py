"""Descriptions in training answers: measured from the mask, said before the name, never in what is asked or used."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rau.training.batch import make_batch  # noqa: E402
from rau.training.data import Anatomies, Layout  # noqa: E402
from rau.training.items import described, draw, place_of  # noqa: E402
from rau.vlm.answers import parse_label  # noqa: E402


def region(rows, columns, side=96):
    mask = np.zeros((side, side), bool)
    mask[rows, columns] = True
    picture = np.full((side, side, 3), 40, np.uint8)
    picture[mask] = 200
    return picture, mask


def test_a_description_says_what_is_measured():
    told = described(*region(slice(8, 28), slice(60, 80)))
    assert "(4.34 % of the picture)" in told and "in the upper-right part" in told
    mirrored = described(*region(slice(8, 28), slice(16, 36)))
    assert mirrored == told.replace("right", "left")
    assert "in the centre" in described(*region(slice(38, 58), slice(38, 58)))
    assert described(*region(slice(0, 0), slice(0, 0))) == ""


@pytest.fixture(scope="module")
def batch():
    return make_batch(Anatomies(5, 6), (3, 0), Layout(1, 0), 6, 5, 96)


def test_the_answer_describes_the_region_and_is_read_all_the_same(batch):
    items = draw(batch, "label", np.random.default_rng(0), 1.0)
    assert items
    for one in items:
        region_ = one.structures[one.marked]
        assert one.thought == described(one.pictures[1], region_.target) and "% of the picture" in one.thought
        answer = one.answer(False)
        assert f"<think>{one.thought}, " in answer
        assert parse_label(answer, one.names) == region_.name
        assert one.thought not in one.question(), "what is asked gives nothing away"


def test_without_the_option_answers_say_where_the_region_lies(batch):
    for one in draw(batch, "label", np.random.default_rng(0)):
        assert one.thought == "" and place_of(one.structures[one.marked].target) in one.answer(False)
    assert all(one.thought == "" for one in draw(batch, "segment", np.random.default_rng(0), 1.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    "script, last",
    [("mechanisms_described.py", "with descriptions, beside without: "), ("large_model.py", "Test size on ")],
)
def test_quick_calls_print_their_figure_last(repository, tmp_path, script, last):
    environment = {**os.environ, "PYTHONPATH": str(repository / "RAUSlicer" / "Logic"), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": ""}
    call = [sys.executable, str(repository / "Benchmarks" / script), "--quick", "--check"]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith(last)
