"""The parts of the evaluation: means and targets, kept scores, memory, pictures, on figures and images made here."""

from __future__ import annotations

import json
from dataclasses import replace

import figures
import numpy as np
import peak_memory
import pytest
import sets
from common import Outcome, run_pair
from evaluation_sets import all_baselines, judge, parser, print_sets, quick_baselines
from pictures import chosen, largest, write_pictures
from PIL import Image
from scores import Kept, Score, content_of, score_of, scores_of

from rau.errors import InputError
from rau.evaluation.baselines import BSPLINE, COPYING, Baseline
from rau.evaluation.datasets import load_set
from rau.evaluation.pairs import pairs_of
from rau.volume.volume import Geometry, Volume


def outcome(dice: float | None, copying: float = 0.5, spline: float = 0.6, seconds: float = 1.0, **more) -> Outcome:
    baselines = {"copying": Score(copying), "bspline": Score(spline, 4.0), **more.pop("others", {})}
    return Outcome("a -> b", dice, seconds, baselines=baselines, **more)


def set_of(name: str, *outcomes: Outcome, dims: int = 2, held_out: bool = False) -> figures.SetFigures:
    return figures.SetFigures(name, dims, held_out, outcomes)


GOOD = set_of("good", outcome(0.9), outcome(0.7))


@pytest.fixture
def squares(tmp_path):
    """A set of three pictures with a bright square, each at another place."""
    for number in range(3):
        folder = tmp_path / "squares" / f"case_{number}"
        folder.mkdir(parents=True)
        mask = np.zeros((48, 48), np.uint8)
        mask[10 + number : 30 + number, 12:34] = 1
        Image.fromarray(mask).save(folder / "labels.png")
        Image.fromarray(mask * 150 + 40).save(folder / "image.png")
    told = {"modality": "", "dims": 2, "structures": {"1": "square"}, "licence_allows_training": False}
    told["cases"] = {f"case_{number}": {} for number in range(3)}
    (tmp_path / "squares" / "set.json").write_text(json.dumps(told))
    return load_set("squares", tmp_path)


@pytest.fixture
def pair(squares):
    return pairs_of(squares.cases)[0]


def read(pair):
    from common import read_pair

    return read_pair(pair)


def test_the_margin_is_over_the_better_mean_of_copying_and_registration():
    one = set_of("one", outcome(0.8, 0.9, 0.2), outcome(0.6, 0.1, 0.4))
    assert (one.dice, one.better) == pytest.approx((0.7, 0.5))  # copying has 0.5, the B-spline 0.3
    assert one.margin == pytest.approx(0.2)


def test_a_failed_baseline_is_counted_and_left_out_of_its_means():
    failed = {"bspline": Score(error="RuntimeError: no overlap")}
    one = set_of("one", outcome(0.8), outcome(0.8, others=failed))
    assert one.baseline_dice("bspline") == pytest.approx(0.6) and one.baseline_seconds("bspline") == 4.0
    assert "B-spline failed on 1 of 2 pairs of one; its figures are of the others" in figures.remarks([one])


def test_the_mean_over_sets_leaves_out_the_set_of_one_subject_and_held_out_cases():
    brats = set_of("brats", outcome(0.1, 1.0), dims=3)
    held = set_of("hc18", outcome(0.95), held_out=True)
    all_sets = [GOOD, brats, held]
    row = figures.mean_row(all_sets)
    assert row[0] == "mean of 1 evaluation-only sets" and row[3] == pytest.approx(0.8)
    assert any(line.startswith("brats has a single subject") for line in figures.remarks(all_sets))
    assert len(row) == len(GOOD.row()) == len(figures.COLUMNS) + len(figures.SECONDS)


def test_the_mean_stands_between_evaluation_sets_and_held_out_cases(capsys):
    print_sets([GOOD, set_of("hc18", outcome(0.95), held_out=True)])
    told = capsys.readouterr().out
    assert told.index("good") < told.index("mean of 1") < told.index("hc18 (held-out cases)")


def test_seconds_that_were_kept_are_marked():
    kept = set_of("one", outcome(0.8, others={"bspline": Score(0.6, 4.0, cached=True)}))
    assert "4.000*" in kept.row() and any(
        line.startswith("* measured in an earlier run") for line in figures.remarks([kept])
    )


def lines(*chosen_sets: figures.SetFigures, registered: bool = True) -> list[str]:
    return [one.line() for one in figures.targets(chosen_sets, registered)]


def test_every_target_is_told_met_or_missed_by_how_much():
    assert lines(GOOD) == [
        "met: mean margin over 1 evaluation-only sets 0.200, at least 0.150",
        "met: sets above copying and registration, of 1 1, at least 1",
        "met: seconds a 2-D pair on good 1.000, at most 3.000",
    ]
    poor = set_of("poor", outcome(0.5, seconds=3.5))
    assert [one.split(":")[0] for one in lines(poor)] == ["missed by 0.250", "missed by 1", "missed by 0.500"]


def test_three_quarters_of_the_sets_must_be_above():
    four = [replace(GOOD, name=str(k)) for k in range(3)] + [set_of("poor", outcome(0.1))]
    assert figures.targets(four)[1].met
    assert not figures.targets([*four, set_of("poorer", outcome(0.1))])[1].met  # 3 of 5


def test_held_out_cases_have_their_own_targets():
    told = lines(set_of("hc18", outcome(0.88), held_out=True), set_of("msd_hippocampus", outcome(0.83), held_out=True))
    assert told[0].startswith("missed by 0.020: Dice on hc18") and told[1].startswith("met: Dice on msd_hippocampus")


def test_volumes_must_be_faster_than_both_registrations():
    convex = {"convex_adam": Score(0.7, 0.5)}
    told = lines(set_of("brats", outcome(0.9, others=convex), dims=3))
    assert [one.split(":")[0] for one in told] == ["met", "missed by 0.500"]


def test_a_registration_that_ran_nowhere_misses_the_target_unless_left_out_on_purpose():
    volume = set_of("brats", outcome(0.9), dims=3)
    assert any("missed by no figure" in one and "ConvexAdam" in one for one in lines(volume))
    assert len(lines(volume, registered=False)) == 1


def test_a_set_that_did_not_run_fails_the_check(capsys):
    assert judge([GOOD], True)
    assert not judge([replace(GOOD, outcomes=(*GOOD.outcomes, Outcome("c", error="broken")))], True)
    assert "missed: did not run to the end: good" in capsys.readouterr().out
    nothing = set_of("none", Outcome("none", error="not here"))
    assert figures.targets([GOOD, nothing])[0].line().startswith("missed by no figure: mean margin")


def test_the_summary_is_one_line():
    told = figures.summary([GOOD, set_of("hc18", outcome(0.95), held_out=True)])
    assert told == (
        "mean Dice 0.800, margin +0.200, above on 1 of 1 evaluation-only sets; hc18 held-out 0.950; 2 of 2 sets ran"
    )


def test_scores_are_kept_between_runs_by_content_and_version(pair, tmp_path):
    file = tmp_path / "kept.json"
    first = scores_of(pair, read(pair), (COPYING,), Kept(file))["copying"]
    again = scores_of(pair, read(pair), (COPYING,), Kept(file))["copying"]
    assert not first.cached and again == replace(first, cached=True)
    newer = replace(COPYING, edition=COPYING.edition + 1)
    assert not scores_of(pair, read(pair), (newer,), Kept(file))["copying"].cached
    before = content_of(pair)
    Image.fromarray(np.eye(48, dtype=np.uint8)).save(pair.target.image_path)
    assert content_of(pair) != before
    assert not scores_of(pair, read(pair), (COPYING,), Kept(file))["copying"].cached


def test_a_baseline_that_fails_is_told_and_tried_again(pair, tmp_path):
    def broken(*_):
        raise RuntimeError("ITK gave\n up")

    failing = Baseline("bspline", "B-spline", broken)
    for _ in range(2):
        scores = scores_of(pair, read(pair), (failing, COPYING), Kept(tmp_path / "kept.json"))
        assert scores["bspline"] == Score(error="RuntimeError: ITK gave up")
        assert 0.8 < scores["copying"].dice <= 1
    missing = replace(COPYING, modules=("a_package_that_is_not_here",))
    assert score_of(missing, *read(pair)).error.startswith("ModuleNotFoundError")


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"format": 1}', '{"format": 1, "scores": {"a": {"dice": 1}}}'])
def test_a_damaged_file_of_scores_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "kept.json").write_text(content)
    with pytest.raises(InputError, match="kept.json holds no scores"):
        Kept(tmp_path / "kept.json")


def test_baselines_run_where_the_segmentation_fails(pair):
    found, result = run_pair(pair, object(), None, all_baselines)
    assert result is None and found.error and found.dice is None
    assert found.baselines["copying"].dice > 0.8 and "B-spline" in found.line() and "failed" in found.line()


def test_quick_registers_no_large_volumes():
    def volume(*shape: int) -> Volume:
        return Volume(np.zeros(shape, np.uint8), Geometry(shape))

    def names(volume: Volume) -> list[str]:
        return [one.name for one in quick_baselines(volume)]

    assert names(volume(1, 512, 512)) == ["copying", "bspline"]
    assert names(volume(40, 50, 35)) == ["copying", "convex_adam"]
    assert names(volume(60, 128, 96)) == ["copying"]
    assert BSPLINE.name in [one.name for one in all_baselines(volume(60, 128, 96))]


def test_pairs_are_spread_and_sets_are_chosen_by_name():
    assert sets.spread(list(range(10)), 3) == [0, 3, 6] and sets.spread([1, 2], 0) == [1, 2]
    assert sets.wanted_sets(" a, b ,") == ["a", "b"]
    assert parser().parse_args(["--sets", "a"]).baselines is None


def test_the_peak_of_memory_is_of_this_process():
    before = peak_memory.peak_mb()
    block = np.ones(60_000_000, np.uint8)
    assert peak_memory.peak_mb() >= before and peak_memory.peak_mb() > block.nbytes / 1e6


def test_memory_of_a_baseline_is_measured_in_a_fresh_process(squares, pair, monkeypatch, repository):
    monkeypatch.setenv("RAU_DATA", str(pair.target.folder.parents[1]))
    monkeypatch.setenv("PYTHONPATH", str(repository / "RAUSlicer" / "Logic"))
    peak, error = peak_memory.measured("squares", 0, "bspline", [])
    assert not error and 30 < peak < 2000
    assert peak_memory.measured("squares", 0, "convex_adam", []) == (None, "")
    peak, error = peak_memory.measured("circles", 0, "bspline", [])
    assert peak is None and "circles" in error


def test_best_median_and_worst_are_chosen_once_each():
    def ended(*scores: float | None):
        return [(str(score), Outcome("", score), None) for score in scores]

    assert [(t, one[0]) for t, one in chosen(ended(0.1, 0.9, None, 0.5))] == [
        ("best", "0.9"),
        ("median", "0.5"),
        ("worst", "0.1"),
    ]
    assert [title for title, _ in chosen(ended(0.5))] == ["best"] and chosen(ended(None)) == []


def test_the_slice_shown_has_the_most_truth():
    marks = np.zeros((6, 4, 4), np.uint8)
    marks[1, 0, 0] = 1
    marks[2:5, :2, :2] = 1
    assert largest(marks, 0) == 3 and largest(np.zeros((5, 4, 4)), 0) == 2


def test_a_picture_holds_a_row_of_three_for_each_pair(squares, tmp_path):
    pairs = pairs_of(squares.cases)
    ended = [(one, Outcome(one.label, 0.5 + k / 10), read(one)[2]) for k, one in enumerate(pairs)]
    assert write_pictures(ended, tmp_path / "squares.png")
    with Image.open(tmp_path / "squares.png") as picture:
        assert picture.width == picture.height and picture.width > 900
        assert len(picture.convert("RGB").resize((200, 200)).getcolors(40_000)) > 5, "structures are outlined in colour"
    assert not write_pictures([(pairs[0], Outcome("", None), ended[0][2])], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
