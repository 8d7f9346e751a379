"""RAU's tables: items are fixed and of two subjects, the arithmetic is right, the script prints its figures last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import rau_bench  # noqa: E402
import rau_masks  # noqa: E402
import rau_scores  # noqa: E402
import rau_tables  # noqa: E402
import rau_tasks  # noqa: E402

from rau.errors import InputError  # noqa: E402
from rau.models.store import known_models  # noqa: E402
from rau.training.fusion_outcome import PART, Fused, checksums_of, save_fusion, segmenter_of  # noqa: E402
from rau.training.items import Item, Structure, place_of  # noqa: E402
from rau.training.lessons import thought_of  # noqa: E402
from rau.vlm.answers import write_label  # noqa: E402
from rau.vlm.build import VlmShape  # noqa: E402
from rau.vlm.dialogue import encode  # noqa: E402
from rau.vlm.store import new_reasoner, save_reasoner  # noqa: E402

SIDE = 48
TINY = VlmShape(picture=48, hidden=64, layers=2, heads=4, wide=96, eyes=(32, 2, 2, 48), window=24, whole=(1,))
needs_model = pytest.mark.skipif("rau-mini" not in known_models(), reason="the bundled model is not here")


@pytest.fixture(scope="module")
def loaded():
    return rau_masks.frozen(new_reasoner(shape=TINY))


def rectangle(top: int, left: int, size: int = 10) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + size, left : left + size] = True
    return mask


def an_item(absent: int = 0) -> Item:
    """Four regions in the corners, moved by a pixel in the target; the last `absent` are not there."""
    places = [(2, 2), (2, 34), (34, 2), (34, 34)]
    names = ("liver", "spleen", "left kidney", "region B")
    structures = tuple(
        Structure(name, rectangle(*place), rectangle(place[0] + 1, place[1] + 1) * (k < 4 - absent))
        for k, (name, place) in enumerate(zip(names, places))
    )
    pictures = tuple(np.random.default_rng(k).integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8) for k in range(2))
    return Item("segment", structures, (pictures[0], pictures[1]))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """A set of pictures, two of each subject, that may not be trained on; one structure has its name twice."""
    for number in range(6):
        folder = tmp_path / "squares" / f"case_{number}"
        folder.mkdir(parents=True)
        maps = np.zeros((60, 80), np.uint8)
        maps[5 + number : 25 + number, 5:30], maps[30:55, 40:70] = 1, 2
        if number % 2:
            maps[3:12, 60:75] = 3
        Image.fromarray((60 + 50 * maps).astype(np.uint8)).save(folder / "image.png")
        Image.fromarray(maps).save(folder / "labels.png")
    told = {"modality": "", "dims": 2, "structures": {"1": "disc", "2": "Disc", "3": "gland"}}
    cases = {f"case_{number}": {"subject": f"s{number // 2}"} for number in range(6)}
    folder = tmp_path / "squares" / "set.json"
    folder.write_text(json.dumps({**told, "licence_allows_training": False, "cases": cases}))
    monkeypatch.setenv("RAU_DATA", str(tmp_path))
    return tmp_path


def same(one: Item, other: Item) -> bool:
    pictures = all(np.array_equal(a, b) for a, b in zip(one.pictures, other.pictures))
    masks = (
        np.array_equal(a.reference, b.reference) and np.array_equal(a.target, b.target)
        for a, b in zip(one.structures, other.structures)
    )
    return one.names == other.names and pictures and all(masks)


def test_no_pair_is_of_one_subject_and_items_are_fixed(data):
    pairs = rau_tasks.pairs_of_subjects("squares")
    assert len(pairs) == 6 and all(one.reference.subject != one.target.subject for one in pairs)
    first, again = (rau_tasks.outside(6, SIDE).items() for _ in range(2))
    assert len(first) == 6 and all(same(one, other) for one, other in zip(first, again))
    for item in first:
        assert len(set(item.names)) == len(item.names) >= 2 and rau_tasks.present_of(item)
        assert item.pictures[0].shape == (SIDE, SIDE, 3) and item.structures[0].reference.shape == (SIDE, SIDE)
        assert all(one.reference.sum() >= 10 for one in item.structures)


def test_items_of_the_anatomies_are_fixed_by_the_seed():
    sources = rau_tasks.validation_sources(None, quick=True)
    first, again = (rau_tasks.inside(sources, 3, SIDE).items() for _ in range(2))
    assert len(first) == 3 and all(same(one, other) for one, other in zip(first, again))
    assert all(len(set(item.names)) == len(item.names) for item in first)


def test_a_structure_too_small_to_tell_is_neither_present_nor_absent():
    picture, big, small = np.zeros((SIDE, SIDE, 3), np.uint8), rectangle(5, 5), rectangle(30, 30, 2)
    names = {"a": "A", "b": "B", "c": "C"}
    first = rau_tasks.Cut(picture, {"a": big, "b": rectangle(20, 5), "c": rectangle(5, 20)}, names)
    second = rau_tasks.Cut(picture, {"a": big, "b": small}, names)
    item = rau_tasks.joined(first, second, np.random.default_rng(0))
    assert item is not None and item.names == ("A", "C") and rau_tasks.present_of(item) == [0]
    assert rau_tasks.joined(second, rau_tasks.Cut(picture, {}, {}), np.random.default_rng(0)) is None


def test_other_questions_of_the_same_slices():
    item = an_item(absent=2)
    asked = rau_tasks.to_label(item, 5)
    assert asked is not None and asked.task == "label" and asked.marked in (0, 1)
    assert rau_tasks.to_label(replace(item, structures=item.structures[:1]), 5) is None, "only one name"
    assert rau_tasks.to_boxes(item).names == ("liver", "spleen", "left kidney")
    batch, numbered = rau_tasks.batch_of([item, item], 64)
    assert batch.images.shape == (2, 2, 3, 64, 64) and batch.masks.shape == (8, 2, 1, 64, 64)
    assert batch.present.tolist() == [True, True, False, False] * 2 and [one.drawn for one in numbered] == [0, 1]


def test_labels_are_read_strictly():
    item = replace(an_item(), task="label", marked=1)
    texts = [write_label("spleen"), write_label("liver"), "spleen", write_label("heart")]
    assert rau_scores.right_labels(texts, [item] * 4) == [True, False, False, False]
    assert rau_scores.chance([item]) == 0.25
    mean, error = rau_scores.share([True, False, True, False])
    assert mean == 0.5 and error == pytest.approx((1 / 3) ** 0.5 / 2)
    assert rau_scores.share([]) == (None, None)


def test_boxes_count_where_a_structure_is():
    item = an_item(absent=1)
    truth = {one.name: one.box for one in item.structures}
    perfect = rau_scores.box_figures([truth], [item])
    assert (perfect.structures, perfect.iou, perfect.hits) == (3, 1.0, 1.0)
    partly = rau_scores.box_figures([{"liver": truth["liver"], "spleen": None}], [item])
    assert partly.iou == pytest.approx(1 / 3) and partly.hits == pytest.approx(1 / 3)
    copied = rau_scores.box_figures(rau_scores.copied_boxes([item]), [item])
    assert copied.iou == pytest.approx(81 / 119) and copied.hits == 1


def test_transport_mends_what_names_alone_get_wrong():
    item, order = an_item(), [2, 0, 3, 1]
    right = np.eye(4)[order] * 0.76 + 0.06
    assert all(all(rau_scores.assigned(item, order, right, rule)) for rule in rau_scores.RULES)
    wrong = right.copy()
    wrong[0] = [0.4, 0.1, 0.3, 0.2]  # the region of structure 2 is called by the first name
    assert rau_scores.assigned(item, order, wrong, "arg-max") == [False, True, True, True]
    assert all(rau_scores.assigned(item, order, wrong, "transport"))


def test_probabilities_are_those_of_whole_answers(loaded):
    item = an_item(absent=1)
    found = rau_scores.name_probabilities(loaded, item)
    assert found.shape == (3, 4) and np.allclose(found.sum(1), 1, atol=1e-5)
    asked = replace(item, task="label", marked=1)
    place = place_of(item.structures[1].target)
    thoughts = [thought_of(place, k, name) for k, name in enumerate(item.names)]
    answers = [write_label(name, think=thought) for name, thought in zip(item.names, thoughts)]
    dialogues = [replace(asked.dialogue(), answer=answer) for answer in answers]
    with torch.inference_mode():
        encoded = encode(loaded.processor, dialogues)
        said = loaded.reasoner.logits(loaded.reasoner.read(encoded.inputs).hidden).log_softmax(-1)
        ids = encoded.inputs["input_ids"]
        spans = [(said[k, a - 1 : b - 1], ids[k, a:b, None]) for k, (a, b) in enumerate(encoded.answers)]
        likely = torch.stack([chances.gather(-1, tokens).sum() for chances, tokens in spans])
    assert np.allclose(found[1], likely.softmax(0).numpy(), atol=1e-4)


def test_the_prefix_cache_gives_the_same_and_computes_less(loaded):
    items = [an_item(), replace(an_item(), pictures=an_item().pictures[::-1])]
    found = rau_scores.prefix_figures(loaded, rau_tasks.Group("all", {"made": items}), 1, 3)
    assert found.slices == 3 and found.difference < 1e-4
    assert 0 < found.with_cache < found.without and found.fewer == 1 - found.with_cache / found.without


def outcome(item: int, present: bool, score: float, source: str = "a", dice: float = 0.0) -> rau_masks.Outcome:
    scores = {"memory": dice} if present else {}
    return rau_masks.Outcome(source, item, present, scores, scores, {"vlm": score})


def test_presence_is_balanced_and_its_threshold_is_of_other_items():
    scores, truth = np.array([0.9, 0.8, 0.7, 0.2]), np.array([True, True, False, False])
    assert rau_masks.balanced(scores, truth, 0.5) == 0.75 and rau_masks.area_under_curve(scores, truth) == 1
    assert rau_masks.best_threshold(scores, truth) == pytest.approx(0.75)
    assert rau_masks.balanced(scores, np.ones(4, bool), 0.5) is None
    even = [outcome(0, True, 0.9), outcome(2, False, 0.7)]
    odd = [outcome(1, True, 0.85), outcome(3, False, 0.75), outcome(3, False, 0.82)]
    found = rau_masks.presence_of([*even, *odd], "vlm")
    assert found.threshold == pytest.approx(0.8) and found.fitted == pytest.approx(0.75)
    assert (found.structures, found.absent, found.accuracy) == (5, 3, 0.5)
    assert rau_masks.presence_of(odd, "vlm", 0.84).fitted == 1


def test_dice_is_of_sources_and_giou_of_structures():
    found = [outcome(0, True, 1, "a", 1.0), outcome(1, True, 1, "b", 0.4), outcome(2, True, 1, "b", 0.0)]
    found.append(outcome(3, False, 0, "c"))
    dice, iou = rau_masks.dice_and_iou(found, "memory")
    assert dice == pytest.approx(0.6) and iou == pytest.approx(1.4 / 3)


def test_targets_of_the_labels_need_both_groups(capsys):
    below = rau_tables.Target("labelling accuracy of SFT in distribution, of GRPO", 0.6, 0.7, "below")
    equal = rau_tables.Target("labelling accuracy of SFT out of distribution, of GRPO", 0.6, 0.6, "below")
    assert rau_tables.judged({"labelling": rau_bench.Table("", [], [], "", [below])})
    assert not rau_tables.judged({"labelling": rau_bench.Table("", [], [], "", [below, equal])})
    assert "missed by 0.000: labelling accuracy of SFT out" in capsys.readouterr().out
    with pytest.raises(InputError, match="No table 'label'"):
        rau_tables.chosen_tables("prefix,label")


@needs_model
@pytest.mark.slow
def test_a_quick_run_needs_no_images_and_prints_its_figures_last(repository, tmp_path):
    logic = str(repository / "RAUSlicer" / "Logic")
    environment = {**os.environ, "PYTHONPATH": logic, "RAU_DATA": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    environment |= {"OMP_NUM_THREADS": "1"}
    out = tmp_path / "figures.json"
    command = [sys.executable, str(repository / "Benchmarks" / "rau_tables.py"), "--quick", "--json", str(out)]
    done = subprocess.run(
        [*command, "--check"], capture_output=True, text=True, encoding="utf-8", env=environment, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The bundled model has a VLM and no fusion: that table and the projector's width have nothing to measure.
    assert done.stdout.splitlines()[-1].endswith("5 of 7 tables, 0 failed") and "width is left out" in done.stdout
    told = json.loads(out.read_text())
    assert set(told["tables"]) == set(rau_tables.TABLES) - {"width", "fusion"}
    assert all(one["met"] for one in told["targets"])


def test_a_fusion_is_measured_with_the_reasoner_that_it_belongs_to(loaded, random_model, tmp_path):
    own, other = tmp_path / "sft" / "reasoner", tmp_path / "other" / "reasoner"
    save_reasoner(own, loaded)
    save_reasoner(other, new_reasoner(1, TINY))
    segmenter, digest = segmenter_of(str(random_model))
    made = rau_masks.random_fusion(loaded, segmenter)
    record = {"fits": {"reasoner": checksums_of(own), "segmenter": digest}}
    decoder = {key: value for key, value in segmenter.model.state_dict().items() if key.startswith(PART)}
    save_fusion(tmp_path / "run" / "fusion", Fused(made.fusion, decoder, torch.zeros(64), record))
    speaker = rau_masks.trained_fusion(tmp_path / "run", [other, own], str(random_model))
    assert speaker.row is not None and rau_masks.ways_of(speaker) == ["memory", "boxes", "fusion", "fusion + boxes"]
    group = rau_tasks.Group("made", {"made": [an_item(absent=1), an_item()]})
    found = rau_masks.outcomes(group, speaker, segmenter, rau_masks.ways_of(speaker))
    assert [one.item for one in found] == [0] * 4 + [1] * 4 and sum(one.present for one in found) == 7
    assert all(0 <= one.dice[way] <= 1 for one in found if one.present for way in one.dice) and not found[3].dice
    assert set(found[0].says) == set(rau_masks.signals(speaker)) and len(found[0].says) == 3
    with pytest.raises(InputError, match="is not here"):
        rau_masks.trained_fusion(tmp_path / "run", [other], str(random_model))
