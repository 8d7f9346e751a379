"""How `Benchmarks/mechanisms_routing.py` trains alike, measures and sums up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import mechanisms_routing as routing

from rau.training.items import Item, Structure
from rau.training.routed_items import RoutedItem
from rau.training.routed_validation import Tally, copied_scores, with_asks
from rau.vlm.routing import ASKS


def square(row, column, size):
    mask = np.zeros((96, 96), bool)
    mask[row : row + size, column : column + size] = True
    return mask


def item(marked=None):
    structures = (
        Structure("liver", square(0, 0, 48), square(0, 0, 48)),
        Structure("cyst", square(50, 50, 40), square(50, 50, 10)),
        Structure("spleen", square(50, 50, 9), np.zeros((96, 96), bool)),
    )
    grey = np.full((96, 96, 3), 100, np.uint8)
    return RoutedItem(Item("segment" if marked is None else "label", structures, (grey, grey), marked), ASKS)


def test_the_four_runs_have_the_same_time_and_differ_in_what_they_ask():
    arguments = routing.parser().parse_args(["--minutes", "6", "--bf16"])
    made = [routing.settings_of(one, Path("run"), arguments) for one in routing.VARIANTS]
    assert made[0].minutes == pytest.approx(sum(one.minutes for one in made[1:]))
    assert len({one.asks for one in made}) == 4 and made[0].asks == "name,box,outline,look"
    rest = [{k: v for k, v in vars(one).items() if k not in ("asks", "minutes")} for one in made]
    assert all(one == rest[0] for one in rest) and made[0].cpu_time and made[0].start == "rau-mini"


def test_a_run_is_done_when_it_had_its_time(tmp_path):
    (tmp_path / "reasoner").mkdir()
    assert not routing.is_done(tmp_path, 1)
    (tmp_path / "seconds").write_text("59.9\n")
    assert not routing.is_done(tmp_path, 1) and routing.is_done(tmp_path, 0.9)


def test_the_references_own_boxes_and_sizes_are_scored_on_what_is_there_alone():
    found = copied_scores([item(), item(marked=1)])
    assert found["box"] == pytest.approx((1 + 1 / 16) / 2), "the cyst is a sixteenth of its box in the reference"
    assert found["look"] == pytest.approx(0.5), "large as it should be; the cyst is small and was not there"


def test_both_sides_of_a_question_count_alike():
    import torch

    tally = Tally()
    tally.side("presence", torch.tensor([True, True, True, True]), torch.tensor([True, True, True, False]))
    tally.note("box", [])
    assert tally.means() == {"presence": 0.5}


def test_other_questions_are_asked_of_the_same_items():
    items = [item(), item(marked=1)]
    assert [one.asks for one in with_asks(items, ("box",), False)] == [("box",)]
    assert [one.asks for one in with_asks(items, ("name",), True)] == [("name",)]


@pytest.mark.parametrize(("parts", "equal"), [(40.0, True), (30.0, False)])
def test_what_is_better_and_worse_is_told_and_unequal_times_are_not_compared(parts, equal, capsys):
    rows = {routing.SEPARATE: {"box": 0.5, "dice": 0.5, "name": 0.4}, routing.ROUTED: {"box": 0.6, "dice": 0.4}}
    seconds = {"routed": 120.0, "boxes": parts, "names": 40.0, "outlines": 40.0}
    assert routing.concluded(rows, seconds) is equal
    told = capsys.readouterr().out
    assert "better in: box; worse in: dice" in told
    assert told.splitlines()[-1].startswith("one routed answer (separate models")


@pytest.mark.slow
def test_a_quick_call_trains_measures_and_prints_its_figure_last(repository, tmp_path):
    logic = str(repository / "RAUSlicer" / "Logic")
    environment = {**os.environ, "PYTHONPATH": logic, "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, str(repository / "Benchmarks" / "mechanisms_routing.py"), "--quick", "--check"]
    done = subprocess.run(
        [*call, "--json", str(tmp_path / "out.json")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert set(rows[routing.ROUTED]) >= {"box", "dice", "presence", "name", "look", "s"}
    assert set(rows[routing.SEPARATE]) >= {"box", "dice", "presence", "name", "look", "s"}
    assert done.stdout.splitlines()[-1].startswith("one routed answer (separate models")
