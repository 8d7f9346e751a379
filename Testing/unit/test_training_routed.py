"""Routed items: what is asked and true, what each token teaches, and a run that goes on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlm_side import TINY, square  # noqa: E402

from rau.errors import InputError  # noqa: E402
from rau.models.store import find_model  # noqa: E402
from rau.training.batch import make_batch  # noqa: E402
from rau.training.data import Anatomies, Layout, Patients, as_patient  # noqa: E402
from rau.training.items import Item, Structure  # noqa: E402
from rau.training.routed_items import RoutedItem, asks_of, collate_routed, draw_routed, small  # noqa: E402
from rau.training.sft import SftTraining, shares_of, train  # noqa: E402
from rau.training.vlm_objective import SftModel  # noqa: E402
from rau.vlm.dialogue import ABSENT, compact, encode, tidy, token_of  # noqa: E402
from rau.vlm.prompts import GRID, TASKS, question, segment_answer  # noqa: E402
from rau.vlm.routed_cues import open_routes, route_spots, routed_cues, token_ids  # noqa: E402
from rau.vlm.routing import ASKS, MODALITIES, UNKNOWN, parse_marked, parse_routed  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner, save_reasoner  # noqa: E402


@pytest.fixture(scope="module")
def source():
    return Anatomies(5, 6)


@pytest.fixture(scope="module")
def loaded():
    return new_reasoner(0, TINY)


def routed(asks=ASKS, marked=None, modality="ultrasound"):
    """A large structure, a small one, one that is absent."""
    structures = (
        Structure("liver", square(10, 10, 40), square(14, 10, 40)),
        Structure("cyst", square(60, 60, 8), square(64, 50, 8)),
        Structure("spleen", square(40, 50), np.zeros((96, 96), bool)),
    )
    grey = np.full((96, 96, 3), 100, np.uint8)
    item = Item("segment" if marked is None else "label", structures, (grey, grey), marked)
    return RoutedItem(item, asks, modality)


def collated(loaded, items, truthful=0.0):
    return collate_routed(items, loaded.processor, loaded.cells, np.random.default_rng(0), truthful)


def tokens_of(loaded, ready, kind):
    ids = token_ids(loaded.processor.tokenizer)
    spots, of = (ready["routed"][f"{kind}_{what}"] for what in ("spots", "of"))
    assert (ready["inputs"]["input_ids"][of, spots] == ids[kind]).all()
    return ready["labels"][of, spots].tolist()


def test_items_are_answered_truly_and_read_back_by_the_strict_parser(source):
    seen = set()
    for seed in range(12):
        batch = make_batch(source, (3, seed), Layout(1, 0), 4, 5, 96)
        assert set(batch.modalities) <= set(MODALITIES)
        for one in draw_routed(batch, ASKS, np.random.default_rng(seed)):
            names = [s.name for s in one.structures]
            read = parse_marked if one.marked else parse_routed
            assert read(one.answer(False), one.item.names if one.marked else names, one.asks) == replace(
                one.truth,
                routes={n: replace(r, look=r.look and "look" in one.asks) for n, r in one.truth.routes.items()},
            )
            everything = read(one.answer(True), one.item.names if one.marked else names, one.asks).routes.values()
            assert all(route.present for route in everything)
            seen.add((one.marked, one.asks))
    assert {marked for marked, _ in seen} == {True, False} and len({asks for _, asks in seen}) > 4


def test_only_what_is_allowed_is_asked(source):
    batch = make_batch(source, (3, 1), Layout(1, 0), 4, 5, 96)
    for text, asks in (("box", ("box",)), ("outline", ("outline",)), ("name", ("name",))):
        drawn = draw_routed(batch, asks_of(text), np.random.default_rng(1))
        assert drawn and all(one.asks == asks and one.marked == (text == "name") for one in drawn)
    for wrong in ("", "look", "name,look", "box,taste"):
        with pytest.raises(InputError, match="cannot be asked"):
            asks_of(wrong)


def test_the_modality_is_the_targets_and_unknown_where_it_was_rendered():
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[3:9, 5:15, 5:15] = 1
    image = (labels * 90 + 40).astype(np.uint8)
    person = as_patient(image, labels, (1, 1, 1), modality="magnetic resonance")
    rng = np.random.default_rng(0)
    assert Patients([person], real=1.0).draw(rng, Layout()).modality == "magnetic resonance"
    assert Patients([person], real=0.0).draw(rng, Layout()).modality == UNKNOWN


def test_small_structures_ask_for_a_closer_look():
    assert small((0.0, 0.0, 0.3, 0.1)) and not small((0.0, 0.0, 0.1, 0.4)) and not small(None)
    assert routed().answer(False).endswith("cyst <Det> <Seg> <Look>; spleen absent;</answer>")


def test_with_all_tokens_an_absent_structure_is_taught_absent_and_nothing_after_it(loaded):
    ready = collated(loaded, [routed()])
    words, ids = loaded.processor.tokenizer, token_ids(loaded.processor.tokenizer)
    absent = token_of(words, ABSENT)
    assert tokens_of(loaded, ready, "det") == [ids["det"], ids["det"], absent]
    assert tokens_of(loaded, ready, "seg") == [ids["seg"], ids["seg"], -100]
    assert tokens_of(loaded, ready, "look") == [ids["end"], ids["look"], -100]
    told = ready["routed"]
    assert told["mates"].tolist() == [0, 1, 2]
    assert told["det_present"].tolist() == [True, True, False] and not told["seg_masks"][2].any()


def test_without_boxes_the_outline_says_whether_a_structure_is_there(loaded):
    ready = collated(loaded, [routed(("outline",)), routed(("box",)), routed()])
    absent, ids = token_of(loaded.processor.tokenizer, ABSENT), token_ids(loaded.processor.tokenizer)
    assert tokens_of(loaded, ready, "seg") == [ids["seg"], ids["seg"], absent, ids["seg"], ids["seg"], -100]
    assert ready["routed"]["mates"].tolist() == [-1, -1, -1, 3, 4, 5]


def test_a_true_answer_has_tokens_of_what_is_there_alone(loaded):
    ready = collated(loaded, [routed(), routed(marked=1)], truthful=1.0)
    told, words = ready["routed"], loaded.processor.tokenizer
    assert [len(told[f"{kind}_spots"]) for kind in ("det", "seg", "look")] == [3, 3, 2]
    for row, one in enumerate((routed(), routed(marked=1))):
        kept = ready["labels"][row][ready["labels"][row] >= 0]
        assert tidy(words.decode(kept)) == one.answer(False)


def test_what_ends_a_structure_is_one_token_wherever_it_stands(loaded):
    words = loaded.processor.tokenizer
    text = compact(routed().answer(True))
    ids = words(text, add_special_tokens=False)["input_ids"]
    assert ids.count(token_ids(words)["end"]) == 3


def test_the_detection_head_reads_det_and_the_mask_head_seg(loaded):
    made = new_reasoner(2, TINY)
    with torch.no_grad():
        made.reasoner.heads.box[-1].weight.normal_(0, 0.05)
    ready = collated(made, [routed()])
    rows, ids = ready["routed"], token_ids(made.processor.tokenizer)
    with torch.no_grad():
        reading = made.reasoner.read(ready["inputs"])
        before = routed_cues(made.reasoner, reading, rows, ids)
        reading.hidden[rows["det_of"], rows["det_spots"]] += 1
        moved = routed_cues(made.reasoner, reading, rows, ids)
        reading.hidden[rows["seg_of"], rows["seg_spots"]] += 1
        last = routed_cues(made.reasoner, reading, rows, ids)
    assert not torch.allclose(before.boxes, moved.boxes, atol=1e-4) and torch.equal(before.masks, moved.masks)
    assert not torch.allclose(moved.masks, last.masks, atol=1e-4) and not torch.equal(moved.states, last.states)
    assert before.boxes.shape == (3, 4) and before.looks.shape == before.presence.shape == (3,)


@pytest.mark.parametrize(("asks", "marked"), [(("box",), None), (("outline",), None), (("name",), 1)])
def test_each_thing_can_be_asked_for_alone(loaded, asks, marked):
    ready = collated(loaded, [routed(asks, marked)])
    model = SftModel(loaded.reasoner, ids=token_ids(loaded.processor.tokenizer))
    with torch.no_grad():
        assert torch.isfinite(model(**ready)["loss"])
    assert ("box" in model.parts, "mask" in model.parts) == ("box" in asks, "outline" in asks)


def test_sixty_steps_on_one_batch_lower_every_part_of_the_loss_and_teach_the_looks():
    made = open_routes(new_reasoner(1, TINY))
    ready = collated(made, [routed(), routed(marked=1)])
    ids = token_ids(made.processor.tokenizer)
    model = SftModel(made.reasoner, ids=ids)
    optimiser, seen = torch.optim.AdamW(model.parameters(), 2e-3), []
    for _ in range(60):
        loss = model(**ready)["loss"]
        seen.append(dict(model.parts))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert set(seen[0]) == {"answer", "colours", "mask", "box"}
    assert not [name for name in seen[0] if seen[-1][name] >= seen[0][name]], (seen[0], seen[-1])
    with torch.no_grad():
        cues = routed_cues(made.reasoner, made.reasoner.read(ready["inputs"]), ready["routed"], ids)
    assert (cues.presence > 0).tolist()[:3] == [True, True, False]
    assert (cues.looks > 0).tolist()[:2] == [False, True]


def test_routing_begins_with_the_row_of_seg_and_is_remembered(tmp_path):
    fresh = new_reasoner(3, TINY)
    ids = token_ids(fresh.processor.tokenizer)
    made = open_routes(fresh)
    table = made.reasoner.base.get_input_embeddings().weight
    assert not fresh.routes and made.routes and torch.equal(table[ids["det"]], table[ids["seg"]])
    with torch.no_grad():
        table[ids["det"]] += 1
    assert not torch.equal(open_routes(made).reasoner.base.get_input_embeddings().weight[ids["det"]], table[ids["seg"]])
    save_reasoner(tmp_path / "with", made)
    save_reasoner(tmp_path / "without", new_reasoner(3, TINY))
    assert load_reasoner(tmp_path / "with").routes and not load_reasoner(tmp_path / "without").routes
    assert "routes" not in json.loads((tmp_path / "without" / "reasoner.json").read_text())


def test_the_shipped_model_is_not_routed_and_reads_its_prompts_as_ever():
    """Token for token; the digest was taken before there was any routing."""
    shipped = load_reasoner(find_model("rau-mini") / "vlm")
    assert not shipped.routes
    words, digest = shipped.processor.tokenizer, hashlib.sha256()
    boxes = {"liver": (0.1, 0.2, 0.5, 0.6), "left kidney": (0.5, 0.5, 0.75, 1.0)}
    for task in TASKS:
        digest.update(str(words(question(task, boxes, GRID))["input_ids"]).encode())
    digest.update(str(words(compact(segment_answer(list(boxes))))["input_ids"]).encode())
    assert digest.hexdigest() == DIGEST
    assert [words.convert_tokens_to_ids(token) for token in ("<Seg>", "<Det>", "<Look>")] == [12, 13, 14]


DIGEST = "af0375868ebc8ddac32b2e4615194ff43b7d6dfdac4255c70dafd39a9c913ed2"


def test_shares_have_a_fourth_number_for_routed_items():
    assert shares_of("2,1,1,4") == {"segment": 0.25, "label": 0.125, "boxes": 0.125, "routed": 0.5}
    assert list(shares_of("2,1,1,0")) == list(shares_of("2,1,1")) == ["segment", "label", "boxes"]
    for wrong in ("1,1,1,-1", "1,1,1,nan", "1,1,1,1,1", "0,0,0,0"):
        with pytest.raises(InputError):
            shares_of(wrong)


def test_a_question_has_no_tokens_that_count(loaded):
    encoded = encode(loaded.processor, [routed().dialogue(answered=False)])
    spots = route_spots(encoded, token_ids(loaded.processor.tokenizer))
    assert not any(len(one) for one in spots.values())


@pytest.mark.slow
def test_a_routed_run_resumes_and_its_reasoner_is_routed(tmp_path: Path, monkeypatch):
    import rau.training.sft as sft
    from rau.training.data import Mixture
    from rau.training.sets import Mixtures

    alone = Mixture((("anatomies", 1.0, Anatomies(1, 4)),))
    monkeypatch.setattr(sft, "mixtures", lambda *_: Mixtures(alone, alone, alone, alone))
    save_reasoner(tmp_path / "start" / "reasoner", new_reasoner(4, TINY))
    wanted = {"folder": str(tmp_path / "run"), "start": str(tmp_path / "start"), "dialogues": 2, "sight": 0.0}
    wanted |= {"warmup": 1, "every": 2, "shares": "0,0,0,1", "cpu_time": True}
    first = list(train(SftTraining(steps=2, **wanted)))
    assert [row["step"] for row in first] == [2] and first[0]["routed box"] >= 0
    again = list(train(SftTraining(steps=4, **wanted)))
    assert [row["step"] for row in again] == [4], "it goes on, and does not begin again"
    assert load_reasoner(tmp_path / "run" / "reasoner").routes
    assert float((tmp_path / "run" / "seconds").read_text()) > 0
