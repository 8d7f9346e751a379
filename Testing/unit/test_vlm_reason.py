"""The VLM in the pipeline: dialogue to cues, the reference's part computed once, what the cues do to a result."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from vlm_side import TINY, lively, masks_of, picture  # noqa: E402

from rau.errors import ModelError  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.models.store import open_model, write_model  # noqa: E402
from rau.pipeline import segment  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.vlm.cues import Cue, between  # noqa: E402
from rau.vlm.dialogue import ABSENT, Dialogue, encode, tidy, token_of  # noqa: E402
from rau.vlm.locate import Locator  # noqa: E402
from rau.vlm.prefix import PrefixCache  # noqa: E402
from rau.vlm.prompts import GRID, MOST, question, segment_answer  # noqa: E402
from rau.vlm.reason import CaseCues, unique  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner, save_reasoner  # noqa: E402
from rau.vlm.vocabulary import SEG  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

NAMES = ("liver", "left kidney", "a 7th thing")


@pytest.fixture(scope="module")
def loaded():
    return lively(new_reasoner(3, TINY))


def masks(names=NAMES):
    return masks_of(names, (6, 5))


def dialogue(names=NAMES, seed=0):
    images = (picture(seed), picture(seed + 1), picture(seed + 2))
    return Dialogue(tuple(names), question("segment", {}, GRID), images, segment_answer(names))


def test_every_structure_has_one_state_in_the_order_of_the_request(loaded):
    encoded = encode(loaded.processor, [dialogue(), dialogue(NAMES[:1], 5)])
    assert encoded.of.tolist() == [0, 0, 0, 1]
    ids = encoded.inputs["input_ids"]
    seg = loaded.processor.tokenizer.convert_tokens_to_ids(SEG)
    assert (ids[encoded.of, encoded.spots] == seg).all() and encoded.spots[:3].tolist() == sorted(encoded.spots[:3])
    words = loaded.processor.tokenizer
    between_first_two = ids[0, encoded.spots[0] + 1 : encoded.spots[1]]
    assert words.decode(between_first_two).strip(", ") == "left kidney"


def test_absent_and_seg_are_told_apart_by_their_first_token(loaded):
    words = loaded.processor.tokenizer
    assert token_of(words, ABSENT) != token_of(words, SEG)
    assert words.decode([token_of(words, ABSENT)]) == ABSENT


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_name_is_written_and_read_back_by_the_tokenizer(name):
    from rau.vlm.vocabulary import train_tokenizer

    words = tokenizer_once(train_tokenizer)
    assert words.decode(words(name, add_special_tokens=False)["input_ids"]) == name


def tokenizer_once(make, kept=[]):  # noqa: B006 (made once for all examples)
    if not kept:
        kept.append(make())
    return kept[0]


def test_generated_text_has_one_space_before_every_state():
    assert tidy(f"liver{SEG}, spleen   {SEG} absent<|im_end|>") == f"liver {SEG}, spleen {SEG} absent"


def test_padding_changes_no_cue(loaded):
    short, long = dialogue(NAMES[:1], 7), dialogue(NAMES, 9)
    anchors, shares = torch.tensor([[0.1, 0.1, 0.5, 0.4]]), torch.rand(1, loaded.cells, loaded.cells)
    alone = encode(loaded.processor, [short])
    one = loaded.reasoner.cues(loaded.reasoner.read(alone.inputs), alone.spots, alone.of, anchors, shares)
    both = encode(loaded.processor, [long, short])
    four = loaded.reasoner.cues(
        loaded.reasoner.read(both.inputs), both.spots, both.of, anchors.expand(4, -1), shares.expand(4, -1, -1)
    )
    assert torch.allclose(one.states[0], four.states[3], atol=1e-4)
    assert torch.allclose(one.masks[0], four.masks[3], atol=1e-4)


def test_the_prefix_is_computed_once_and_changes_nothing(loaded):
    plain, quick = Locator(loaded), Locator(loaded, PrefixCache("model"))
    for seed in (1, 2, 3):
        fresh, cached = (one.locate(picture(0), masks(), picture(seed)) for one in (plain, quick))
        for name in NAMES:
            assert np.allclose(fresh[name].state, cached[name].state, atol=1e-4)
            assert np.allclose(fresh[name].mask, cached[name].mask, atol=1e-4)
            assert np.allclose(fresh[name].box, cached[name].box, atol=1e-5)
            assert abs(fresh[name].presence - cached[name].presence) < 1e-4
    cache = quick.cache
    prefix, suffix = cache.reused / 2, (cache.computed - cache.reused / 2) / 3
    assert prefix > suffix > 0, "of three targets, two found the reference's part ready, and it is the longer one"
    assert len(cache._kept) == 1, "one reference, one prefix"


def test_another_reference_name_or_model_is_another_prefix():
    images = (picture(0), picture(1), picture(2))
    key = PrefixCache("model").key(NAMES, images)
    assert key == PrefixCache("model").key(NAMES, (*images[:2], picture(9))), "the target is no part of it"
    assert key != PrefixCache("other").key(NAMES, images)
    assert key != PrefixCache("model").key(NAMES[::-1], images)
    assert key != PrefixCache("model").key(NAMES, (picture(4), *images[1:]))


def test_the_cache_lets_the_oldest_prefix_go(loaded):
    locator = Locator(loaded, PrefixCache("model", most=2))
    for seed in range(4):
        locator.locate(picture(seed), masks(NAMES[:1]), picture(50))
    assert len(locator.cache._kept) == 2


def test_more_structures_than_colours_are_asked_in_several_dialogues(loaded):
    names = tuple(f"part {k}" for k in range(MOST + 2))
    many = {name: np.zeros((96, 96), bool) for name in names}
    for k, name in enumerate(names):
        many[name][6 * k : 6 * k + 6, 10:40] = True
    assert list(Locator(loaded).locate(picture(0), many, picture(1))) == list(names)


def test_a_saved_reasoner_is_the_same_reasoner(loaded, tmp_path):
    save_reasoner(tmp_path / "vlm", loaded, {"steps": 1})
    again = load_reasoner(tmp_path / "vlm")
    again.reasoner.eval()
    one, other = (Locator(each).locate(picture(0), masks(), picture(1)) for each in (loaded, again))
    assert all(np.allclose(one[name].state, other[name].state, atol=1e-5) for name in NAMES)
    assert again.convention == loaded.convention and again.cells == loaded.cells
    assert [p.name for p in tmp_path.iterdir()] == ["vlm"], "nothing temporary is left"
    assert not [p.name for p in (tmp_path / "vlm").iterdir() if p.suffix in (".bin", ".pt", ".pkl", ".py")]


def test_a_reasoner_with_a_missing_or_broken_file_is_one_line(loaded, tmp_path):
    save_reasoner(tmp_path / "vlm", loaded)
    (tmp_path / "vlm" / "heads.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_reasoner(tmp_path / "vlm")
    shutil.rmtree(tmp_path / "vlm")
    with pytest.raises(ModelError, match="cannot be read"):
        load_reasoner(tmp_path / "vlm")


def cue(presence, x=0.0, fill=0.0):
    return Cue(presence, (x, x, x + 0.2, x + 0.2), np.full(4, presence, np.float32), np.full((6, 6), fill, np.float32))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_cue_between_two_lies_between_them(first, second, share):
    mixed = between(cue(first, 0.1), cue(second, 0.5), share)
    assert min(first, second) - 1e-9 <= mixed.presence <= max(first, second) + 1e-9
    assert 0.1 - 1e-9 <= mixed.box[0] <= 0.5 + 1e-9 and mixed.box[0] < mixed.box[2]


def case_cues(uses=("presence", "boxes")):
    known = {1: {2: cue(1.0, 0.1), 6: cue(0.0, 0.5)}, 2: {4: cue(0.9)}}
    return CaseCues(0, 9, known, {}, uses, 0.5)


def test_presence_is_interpolated_between_key_slices_and_holds_beyond_them():
    gate = case_cues().gate(1)
    assert gate.tolist() == [1, 1, 1, 1, 1, 0, 0, 0, 0], "0.75 and 0.5 pass the threshold, 0.25 does not come near"
    assert case_cues(("boxes",)).gate(1) is None and case_cues().gate(3) is None


def test_structures_that_are_not_there_get_no_box():
    hints = case_cues().hints(6, [1, 2])
    assert hints is None
    assert set(case_cues().hints(2, [1, 2]).boxes) == {1}
    assert case_cues(("presence",)).hints(2, [1, 2]) is None


def test_structures_of_one_name_are_told_apart():
    assert unique({1: "kidney", 2: " Kidney ", 3: "", 4: "kidney"}) == {
        1: "kidney",
        2: "Kidney 2",
        3: "structure",
        4: "kidney 3",
    }


@pytest.fixture(scope="module")
def folder(random_model, loaded, tmp_path_factory):
    """The random model with a VLM."""
    path = tmp_path_factory.mktemp("with vlm")
    save_reasoner(path / "made", loaded, half=True)
    base = open_model(random_model)
    fields = base.manifest.model_dump(exclude={"files"}) | {"vlm": {"uses": ["presence"], "presence_threshold": 0.5}}
    weights = {name: base.tensors(name) for name in ("segmenter.safetensors", "encoder.safetensors")}
    return write_model(path / "random", fields, weights, vlm=path / "made").path


def patient(seed=0):
    array = np.random.default_rng(seed).normal(size=(6, 40, 48)).astype(np.float32)
    labels = np.zeros(array.shape, np.uint8)
    labels[1:5, 8:24, 10:30], labels[2:6, 26:36, 20:40] = 1, 2
    grid = Geometry(array.shape, (4.0, 1.0, 1.0))
    named = (Structure(1, "liver", (1, 0, 0), ""), Structure(2, "spleen", (0, 1, 0), ""))
    return Reference(Volume(array, grid, "MR"), LabelMap(labels, grid, named))


def run(folder, reasoning, monkeypatch=None, sure=None):
    chosen = SegmentSettings(model=str(folder), device="cpu", adaptation="off", registration="off", reasoning=reasoning)
    engine = load_engine(chosen)
    if sure is not None:
        locate = engine.reasoning.locator.locate

        def told(*args):
            found = locate(*args)
            return {name: Cue(sure[name], one.box, one.state, one.mask) for name, one in found.items()}

        monkeypatch.setattr(engine.reasoning.locator, "locate", told)
    return segment([patient()], patient(5).image, chosen, engine=engine)


def test_what_the_vlm_does_not_see_is_not_found_and_the_rest_stays(folder, monkeypatch):
    plain = run(folder, "off")
    assert all(one.present for one in plain.structures)
    less = run(folder, "auto", monkeypatch, {"liver": 0.99, "spleen": 0.01})
    assert [one.present for one in less.structures] == [True, False]
    same = run(folder, "auto", monkeypatch, {"liver": 0.99, "spleen": 0.99})
    assert np.array_equal(same.labels.array, plain.labels.array)


def test_boxes_take_part_when_everything_is_asked_for_and_the_report_says_so(folder, monkeypatch):
    result = run(folder, "on", monkeypatch, {"liver": 0.99, "spleen": 0.99})
    assert any("boxes" in one.parts for one in result.slices)
    assert not any("boxes" in one.parts for one in run(folder, "off").slices)


def test_the_report_holds_what_the_vlm_said_in_the_targets_own_slices(folder, monkeypatch):
    said = run(folder, "auto", monkeypatch, {"liver": 0.75, "spleen": 0.25}).report()["reasoning"]
    json.dumps(said)
    assert said["uses"] == ["presence"] and said["axis"] == 0
    told = {(row["structure"], row["presence"]) for row in said["cues"]}
    assert told == {("liver", 0.75), ("spleen", 0.25)}
    assert all(0 <= row["slice"] < 6 for row in said["cues"])
    assert run(folder, "off").report()["reasoning"] == {}


def test_a_model_without_vlm_runs_as_before(random_model):
    assert load_engine(SegmentSettings(model=str(random_model), device="cpu", reasoning="on")).reasoning is None


def test_a_file_of_the_vlm_without_checksum_or_with_another_content_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "vlm" / "modeling.py").write_text("raise SystemExit")
    with pytest.raises(ModelError, match="without a checksum"):
        open_model(copy)
    (copy / "vlm" / "modeling.py").unlink()
    text = (copy / "vlm" / "reasoner.json").read_text()
    (copy / "vlm" / "reasoner.json").write_text(text + " ")
    with pytest.raises(ModelError, match="damaged or was changed"):
        open_model(copy)


def test_a_manifest_cannot_name_files_elsewhere(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    manifest = json.loads((copy / "model.json").read_text())
    manifest["files"]["vlm/../../outside.json"] = "0" * 64
    (copy / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="not allowed"):
        open_model(copy)


def test_a_packed_model_keeps_its_segmenter_and_holds_no_path(random_model, loaded, tmp_path):
    from rau.training.pack import VlmRuns, pack

    save_reasoner(tmp_path / "run" / "reasoner", loaded, {"folder": str(tmp_path), "data": "/somewhere", "rate": 0.001})
    made = pack(random_model, random_model, tmp_path / "packed", "7", vlm=VlmRuns(tmp_path / "run", uses=("presence",)))
    before = open_model(random_model)
    assert made.manifest.files["segmenter.safetensors"] == before.manifest.files["segmenter.safetensors"]
    assert json.loads(made.manifest.trained)["vlm"]["reasoner"] == {"rate": 0.001}
    assert str(tmp_path) not in (made.path / "vlm" / "reasoner.json").read_text()
    engine = load_engine(SegmentSettings(model=str(made.path), device="cpu"))
    assert engine.reasoning.uses == ("presence",) and engine.reasoning.fusion is None


def test_what_cannot_be_used_is_refused_before_packing(tmp_path):
    from rau.errors import InputError
    from rau.training.pack import vlm_runs

    assert vlm_runs(None, None, "", 0.5) is None
    assert vlm_runs(tmp_path, None, "presence, boxes", 0.7).uses == ("presence", "boxes")
    for wrong in ((None, tmp_path, "", 0.5), (None, None, "presence", 0.5), (tmp_path, None, "fusion", 0.5)):
        with pytest.raises(InputError):
            vlm_runs(*wrong)
