"""`Benchmarks/mechanisms_two_way.py`: its arithmetic, which runs it compares, and a whole call on tiny runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import mechanisms_two_way as bench  # noqa: E402
import rau_masks  # noqa: E402
import rau_tasks  # noqa: E402
from test_benchmarks_rau_tables import an_item  # noqa: E402
from test_vlm_two_way import packed, write_run  # noqa: E402

from rau.errors import InputError  # noqa: E402
from rau.training import fusion as stage  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.fusion_outcome import load_fusion, save_fusion, segmenter_of  # noqa: E402
from rau.training.sets import Mixtures  # noqa: E402

ONE, RELEASED, CONDITIONED = bench.TITLES["off"], bench.TITLES["released"], bench.TITLES["conditioned"]


def measured(*dice, source="ab"):
    sources = tuple(source[i % len(source)] for i in range(len(dice)))
    return bench.Measured(dice, tuple(d / 2 for d in dice), sources, 0.1)


def test_dice_is_the_mean_over_sources_and_giou_over_structures():
    one = bench.Measured((0.2, 0.4, 0.9), (0.1, 0.3, 0.8), ("a", "a", "b"), 0.1)
    assert one.mean_dice == pytest.approx((0.3 + 0.9) / 2) and one.giou == pytest.approx(0.4)


def test_a_gain_is_of_the_same_structures_with_its_standard_error():
    one, other = measured(0.5, 0.6, 0.7), measured(0.4, 0.6, 0.4)
    gain, error = one.gain(other)
    assert gain == pytest.approx(0.4 / 3) and error == pytest.approx(np.std([0.1, 0.0, 0.3], ddof=1) / 3**0.5)
    assert one.gain(one) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("two", "clear"), [((0.52, 0.53, 0.51), True), ((0.9, 0.1, 0.6), False), ((0.501,) * 3, False)]
)
def test_it_helps_only_beyond_its_error_and_a_least_gain(two, clear):
    ((told, gain, _, helps),) = bench.judged({"in": {ONE: measured(0.5, 0.5, 0.5), CONDITIONED: measured(*two)}})
    assert helps is clear and gain == pytest.approx(np.mean(two) - 0.5) and told.startswith(CONDITIONED)


@pytest.mark.parametrize(
    ("change", "differing", "check", "status"),
    [(0.0, [], True, 0), (0.1, [], True, 1), (0.1, [], False, 0), (0.0, ["seed"], True, 1)],
)
def test_the_check_is_of_what_must_hold_and_not_of_the_gain(change, differing, check, status, capsys):
    found = {"in": {bench.MEMORY: measured(0.4, 0.4), ONE: measured(0.5, 0.5), RELEASED: measured(0.3, 0.3)}}
    assert bench.concluded(found, change, differing, check) == status
    told = capsys.readouterr().out
    assert "does not help clearly" in told and ("seed" in told) is bool(differing)
    assert told.splitlines()[-1] == f"Dice (in): {bench.MEMORY} 0.400; {ONE} 0.500; {RELEASED} 0.300; {CONDITIONED} "


@pytest.fixture
def runs(random_model, tmp_path):
    return {way: write_run(tmp_path / way, random_model, way, way != "off") for way in bench.TWO_WAYS}


def test_runs_that_were_trained_otherwise_are_told(runs):
    assert bench.unlike(runs) == []
    with pytest.raises(InputError, match="no run with --two-way released"):
        bench.unlike({"released": runs["off"]})
    fused = load_fusion(runs["released"] / "fusion")
    record = {"fits": fused.record["fits"], "settings": {"two_way": "released", "seed": 7}}
    save_fusion(runs["released"] / "fusion", replace(fused, record=record))
    assert bench.unlike(runs) == ["seed"]


def test_a_projection_at_zero_changes_nothing_and_is_put_back(runs, random_model):
    segmenter, _ = segmenter_of(str(random_model))
    speaker = rau_masks.trained_fusion(runs["conditioned"], [], str(random_model))
    group = rau_tasks.Group("made", {"made": [an_item(absent=1), an_item()]})
    before = {key: value.clone() for key, value in speaker.fusion.state_dict().items()}
    assert bench.untrained_change(group, speaker, segmenter) == 0.0
    assert all(torch.equal(value, before[key]) for key, value in speaker.fusion.state_dict().items())
    found = bench.measured(group, speaker, segmenter, rau_masks.FUSION)
    torch.nn.init.zeros_(speaker.fusion.back.layers[-1].weight)
    plain = bench.measured(group, speaker, segmenter, rau_masks.FUSION)
    assert len(found.dice) == len(plain.dice) == 7 and found.dice != plain.dice, "away from zero it moves the masks"
    with pytest.raises(InputError, match="nothing to switch on"):
        bench.untrained_change(group, rau_masks.trained_fusion(runs["off"], [], str(random_model)), segmenter)


def test_a_whole_call_prints_the_table_and_writes_it(runs, random_model, tmp_path, monkeypatch, capsys):
    model = packed(tmp_path / "packed", random_model, "off", moved=False)
    monkeypatch.setenv("RAU_DATA", str(tmp_path / "nothing"))
    call = [
        "two_way",
        "--quick",
        "--check",
        "--items",
        "2",
        "--model",
        str(model),
        "--json",
        str(tmp_path / "out.json"),
    ]
    for way, run in runs.items():
        call += [f"--{'one-way' if way == 'off' else way}", str(run)]
    monkeypatch.setattr("sys.argv", call)
    monkeypatch.setattr(bench.Bench, "groups", [rau_tasks.Group("made", {"made": [an_item(absent=1), an_item()]})])
    assert bench.main() == 0
    told = capsys.readouterr()
    assert "Untrained, the projection changes a mask logit by 0" in told.out and not told.err
    written = json.loads((tmp_path / "out.json").read_text())
    assert set(written["groups"]["made"]) == {bench.MEMORY, ONE, RELEASED, CONDITIONED} and written["untrained"] == 0.0
    monkeypatch.setattr("sys.argv", ["two_way", "--model", str(model)])
    assert bench.main() == 2 and "no run to measure" in capsys.readouterr().err


def test_a_quick_call_trains_what_is_not_given(random_model, tmp_path, monkeypatch):
    """All three alike, each of its own way; a run that is given is taken."""
    model = packed(tmp_path / "packed", random_model, "off", moved=False)
    few = Mixture((("anatomies", 1.0, Anatomies(0, 4)),))
    monkeypatch.setattr(stage, "mixtures", lambda *_: Mixtures(*[few] * 4))
    monkeypatch.setattr(bench, "QUICK_MINUTES", 1e-4)
    given = write_run(tmp_path / "given", random_model, "off", False)
    arguments = bench.parser().parse_args(["--quick", "--model", str(model), "--one-way", str(given)])
    runs = bench.runs_of(arguments, tmp_path)
    assert runs["off"] == given and bench.unlike({way: runs[way] for way in ("released", "conditioned")}) == []
    for way in ("released", "conditioned"):
        speaker = rau_masks.trained_fusion(runs[way], [model / "vlm"], str(model))
        assert speaker.fusion.config.two_way == way and load_fusion(runs[way] / "fusion").record["scores"]["step"] == 1
