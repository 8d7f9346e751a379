"""Items and objective of the VLM's training: what is asked, what is true, what is learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from vlm_side import TINY, square  # noqa: E402

from rau.training.batch import make_batch  # noqa: E402
from rau.training.data import Anatomies, Layout  # noqa: E402
from rau.training.items import (  # noqa: E402
    Item,
    Structure,
    called,
    collate,
    colour_map,
    draw,
    drawn_on,
    painted,
    place_of,
)
from rau.training.sft import SftTraining, shares_of, train  # noqa: E402
from rau.training.vlm_objective import SftModel, answer_loss, carried_loss  # noqa: E402
from rau.vlm.answers import parse_boxes, parse_label, parse_segments  # noqa: E402
from rau.vlm.boxes import Convention  # noqa: E402
from rau.vlm.dialogue import ABSENT, colour_tokens, token_of  # noqa: E402
from rau.vlm.heads import Correspondence, CueHeads, HeadsConfig, carried, paired_giou  # noqa: E402
from rau.vlm.prompts import GRID, MOST  # noqa: E402
from rau.vlm.store import new_reasoner  # noqa: E402
from rau.vlm.vocabulary import COLOURS  # noqa: E402


@pytest.fixture(scope="module")
def source():
    return Anatomies(5, 6)


@pytest.fixture(scope="module")
def loaded():
    return new_reasoner(0, TINY)


def batch_of(source, seed=0, tasks=4):
    return make_batch(source, (3, seed), Layout(1, 0), tasks, 5, 96)


def item(task="segment", absent=False):
    gone = np.zeros((96, 96), bool)
    structures = (
        Structure("liver", square(10, 10), square(14, 10)),
        Structure("spleen", square(40, 50), gone if absent else square(44, 50)),
    )
    grey = np.full((96, 96, 3), 100, np.uint8)
    return Item(task, structures, (grey, grey), 0 if task == "label" else None)


def test_the_answers_of_items_are_read_by_the_strict_parser(source):
    for seed in range(3):
        for task in ("segment", "label", "boxes"):
            for one in draw(batch_of(source, seed), task, np.random.default_rng(seed)):
                names, here = one.names, {s.name: s.target.any() for s in one.structures}
                if task == "segment":
                    assert parse_segments(one.answer(False), names) == here
                    assert all(parse_segments(one.answer(True), names).values())
                elif task == "label":
                    assert parse_label(one.answer(True), names) == names[one.marked] and here[names[one.marked]]
                else:
                    boxes = parse_boxes(one.answer(True), names, GRID)
                    assert {name: box is not None for name, box in boxes.items()} == here


def test_names_are_unique_and_an_own_name_is_only_ever_its_own():
    own = ["liver", "", "liver", "spleen", ""]
    for seed in range(40):
        names = called(np.random.default_rng(seed), own)
        assert len(set(names)) == len(names)
        assert all(name == mine or name not in own for name, mine in zip(names, own))


def test_an_absent_structure_is_forced_a_state_and_taught_absent(loaded):
    rng = np.random.default_rng(1)  # its first draw is above TRUTHFUL
    ready = collate([item(absent=True)], loaded.processor, loaded.cells, rng)
    assert ready["present"].tolist() == [True, False] and len(ready["spots"]) == 2
    labels = ready["labels"][ready["of"], ready["spots"]].tolist()
    assert labels == [loaded.reasoner.seg, token_of(loaded.processor.tokenizer, ABSENT)]
    assert (ready["inputs"]["input_ids"][ready["of"], ready["spots"]] == loaded.reasoner.seg).all()
    assert not ready["masks"][1].any() and ready["shares"][1].any()


def test_only_answers_are_learnt(loaded):
    ready = collate([item("label"), item("boxes")], loaded.processor, loaded.cells, np.random.default_rng(0))
    words = loaded.processor.tokenizer
    for row, text in enumerate((item("label").answer(True), item("boxes").answer(True))):
        kept = ready["labels"][row][ready["labels"][row] >= 0]
        assert words.decode(kept[:-1]) == text and words.decode(kept[-1:]) == words.eos_token


def test_boxes_are_written_in_the_convention_of_the_backend():
    pixels = Convention("pixels", 560)
    said = item("boxes").answer(True, pixels)
    assert parse_boxes(said, ("liver", "spleen"), pixels)["liver"] == pytest.approx(
        (10 / 96, 14 / 96, 30 / 96, 34 / 96), abs=1e-3
    )
    assert "[58, 82" in said


def test_colours_of_the_target_are_those_of_the_legend():
    cells = colour_map(item().structures, 24)
    assert cells[6, 5] == 1 and cells[13, 15] == 2 and cells[0, 0] == 0
    shown = painted([item()], 8)
    assert shown.shape == (1, MOST, 8, 8) and shown[0, 0, 1, 1] > 0.5 and not shown[0, 2:].any()


def test_what_is_drawn_is_the_colours_of_the_overlay_and_the_mark_of_the_target():
    shown = drawn_on([item("label"), item()], 8)
    assert torch.equal(shown[:, :MOST], painted([item("label"), item()], 8))
    assert shown[0, MOST, 1, 1] > 0.5 and not shown[0, MOST, 5:].any(), "the first structure is marked"
    assert not shown[1, MOST].any(), "nothing is marked where nobody asks for a name"


@pytest.mark.parametrize("bright", [0, 100, 255])
def test_a_marked_region_is_seen_however_bright_the_picture(bright):
    one = item("label")
    grey = np.full((96, 96, 3), bright, np.uint8)
    shown = replace(one, pictures=(grey, grey)).images()[2].astype(int)
    mask = one.structures[0].target
    assert shown[mask].min() > 160 and np.abs(shown[mask] - bright).max() + np.abs(shown[~mask] - bright).max() > 150
    assert (shown[12, 12] == 0).all() and (shown[50, 70] == bright).all()


@given(st.integers(0, 75), st.integers(0, 75))
@settings(max_examples=30, deadline=None)
def test_a_place_is_told_as_it_is(row, column):
    told = place_of(square(row, column))
    middle = (row + 10) / 96
    assert told.startswith("upper" if middle < 0.4 else "lower" if middle > 0.6 else "middle")


def test_a_correspondence_with_itself_finds_every_place_and_carries_the_mask():
    torch.manual_seed(0)
    places = Correspondence(16, 16)
    tokens = torch.randn(1, 16, 32)
    with torch.no_grad():
        found = places(tokens, tokens)
        places.width.fill_(-5.0)
        sharp = places(tokens, tokens)
    assert torch.allclose(found.sum(-1), torch.ones(1, 64), atol=1e-5)
    assert (found[0].argmax(-1) == torch.arange(64)).float().mean() > 0.95
    mask = torch.rand(1, 24, 24).round()
    assert torch.allclose(carried(sharp, mask), mask, atol=0.05)


def test_a_correspondence_that_finds_every_place_has_the_colours_right_and_another_has_not():
    one = item()
    still = replace(one, structures=tuple(replace(s, target=s.reference) for s in one.structures))
    laid, colours = painted([still], 24), colour_map(still.structures, 24)[None]
    right = torch.eye(64)[None]
    wrong = right.flip(-1)
    assert carried_loss(right, laid, colours) < 0.2 < 1 < carried_loss(wrong, laid, colours)


def test_an_untrained_head_copies_the_reference():
    heads = CueHeads(HeadsConfig(16, cells=6))
    anchors = torch.tensor([[0.1, 0.2, 0.4, 0.9], [0.0, 0.0, 1.0, 1.0]])
    boxes = heads.boxes(torch.randn(2, 16), anchors, torch.randn(2, 24, 24))
    assert torch.allclose(boxes, anchors, atol=1e-6)


def test_giou_of_a_box_with_itself_is_one_and_of_boxes_apart_below_zero():
    a = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.0, 0.0, 0.2, 0.2]])
    b = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 1.0, 1.0]])
    found = paired_giou(a, b)
    assert found[0] == pytest.approx(1) and found[1] == pytest.approx(2 * 0.04 / 1 - 1)


def test_sixty_steps_on_one_batch_lower_every_part_of_the_loss(loaded, source):
    made = new_reasoner(1, TINY)
    grey = np.full((96, 96, 3), 100, np.uint8)
    far = Item("segment", (Structure("liver", square(10, 10), square(60, 60)),), (grey, grey))
    asked = [far, item(absent=True)]
    ready = collate(asked, made.processor, made.cells, np.random.default_rng(1))
    ready |= {"drawn": drawn_on(asked, made.grid), "laid": painted(asked, made.cells)}
    model = SftModel(made.reasoner, words=colour_tokens(made.processor.tokenizer))
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    seen = []
    for _ in range(60):
        loss = model(**ready)["loss"]
        seen.append(dict(model.parts))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert set(seen[0]) == {"answer", "colours", "said", "drawn", "carried", "mask", "box"}
    assert not [name for name in seen[0] if seen[-1][name] >= seen[0][name]], (seen[0], seen[-1])


def test_every_colour_of_the_legend_has_a_token_of_its_own_word(loaded):
    tokenizer = loaded.processor.tokenizer
    words = [tokenizer.decode([token]).strip() for token in colour_tokens(tokenizer)]
    assert len(set(words)) == MOST and all(part in colour for part, colour in zip(words, COLOURS))


def test_no_token_but_the_answers_counts(loaded):
    ready = collate([item("label")], loaded.processor, loaded.cells, np.random.default_rng(0))
    with torch.no_grad():
        reading = loaded.reasoner.read(ready["inputs"])
        whole = answer_loss(loaded.reasoner, reading.hidden, ready["labels"])
        start = int((ready["labels"][0] >= 0).nonzero()[0])
        reading.hidden[0, : start - 1] = 0
        assert torch.allclose(answer_loss(loaded.reasoner, reading.hidden, ready["labels"]), whole)


def test_shares_of_the_tasks_are_read_strictly():
    from rau.errors import InputError

    assert shares_of("2,1,1") == {"segment": 0.5, "label": 0.25, "boxes": 0.25}
    for wrong in ("1,2", "a,b,c", "-1,1,1", "0,0,0"):
        with pytest.raises(InputError):
            shares_of(wrong)


@pytest.mark.slow
def test_a_run_resumes_where_it_ended_and_its_reasoner_can_be_loaded(tmp_path, monkeypatch):
    import rau.training.sft as sft
    from rau.training.data import Mixture
    from rau.training.sets import Mixtures
    from rau.vlm.store import load_reasoner

    alone = Mixture((("anatomies", 1.0, Anatomies(1, 4)),))
    monkeypatch.setattr(sft, "mixtures", lambda *_: Mixtures(alone, alone, alone, alone))
    monkeypatch.setattr(sft, "new_reasoner", lambda seed: new_reasoner(seed, TINY))
    wanted = {"folder": str(tmp_path), "dialogues": 2, "sight": 0.0, "warmup": 1, "every": 2}
    first = list(train(SftTraining(steps=2, **wanted)))
    assert [row["step"] for row in first] == [2]
    again = list(train(SftTraining(steps=4, **wanted)))
    assert [row["step"] for row in again] == [4], "it goes on, and does not begin again"
    assert not list(tmp_path.glob("**/*.tmp")) and load_reasoner(tmp_path / "reasoner").grid == 4
    assert list(train(SftTraining(steps=4, **wanted))) == []
