"""What the panel says."""

from __future__ import annotations

import pytest

from RAUSlicerLib import wording
from RAUSlicerLib.problems import NOT_CHOSEN, Problem
from RAUSlicerLib.run import RunState


@pytest.mark.parametrize(
    "seconds, text",
    [(2, "a few seconds"), (23, "about 25 s"), (88, "about 90 s"), (91, "about 2 min"), (600, "about 10 min")],
)
def test_durations_are_rounded_as_one_says_them(seconds: float, text: str) -> None:
    assert wording.about(seconds) == text


def test_progress() -> None:
    state = RunState("running", done=14, total=120, seconds_left=25.0)
    assert wording.progress_text(state) == "Slice 14 of 120, about 25 s left"
    assert wording.progress_value(state) == (14, 120)
    assert wording.progress_text(RunState("running", done=1, total=120)) == "Slice 1 of 120"
    assert wording.progress_value(RunState("loading")) == (0, 0)


def test_outcome_names_what_is_absent_and_every_warning() -> None:
    structures = [
        {"value": 1, "name": "liver", "present": True},
        {"value": 2, "name": "spleen", "present": False},
        {"value": 3, "name": "aorta", "present": True},
    ]
    quality = {"structures": [{"value": 1, "light": "amber", "expected_dice": 0.8}, {"value": 3, "light": "green"}]}
    state = RunState(
        "done", report={"structures": structures, "quality": quality}, warnings=("Look twice",), seconds=12.4
    )
    notice = wording.outcome(state)
    assert notice.kind == "warning" and notice.title == "2 structures segmented in 12 s"
    told = ("Not found in the target: spleen", "Check first: liver", "Look twice.", "Check every slice before use.")
    assert notice.lines == told


def test_a_problem_is_one_line_and_what_to_do() -> None:
    notice = wording.problem_notice(Problem("It <broke>.\n Badly", "Mend it."))
    assert (notice.kind, notice.title, notice.lines) == ("error", "It <broke>. Badly.", ("Mend it.",))
    assert "&lt;broke&gt;" in notice.as_html()
    assert wording.problem_notice(Problem("Pick one", kind=NOT_CHOSEN)).kind == "info"


def test_what_the_bank_gave_is_told_and_is_no_warning() -> None:
    used = [{"id": "0123456789abcdef", "reason": "similarity 0.91; CT"}]
    structures = [{"value": 1, "name": "liver", "present": True}]
    state = RunState("done", report={"structures": structures, "provenance": {"bank": {"used": used}}})
    notice = wording.outcome(state)
    assert notice.kind == "done" and notice.lines[0] == "From the bank: 01234567 (similarity 0.91; CT)"
