"""The way back in the pipeline: a model that has it, what uses switch on, fields between key slices, packing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from dataclasses import replace  # noqa: E402

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_vlm_reason import TINY, patient  # noqa: E402

from rau.errors import InputError, ModelError  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.models.store import open_model  # noqa: E402
from rau.pipeline import segment  # noqa: E402
from rau.sam.fusion import Fusion, FusionConfig  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.training.fusion_outcome import PART, Fused, checksums_of, save_fusion, segmenter_of  # noqa: E402
from rau.training.pack import VlmRuns, pack, vlm_runs  # noqa: E402
from rau.vlm.cues import Cue  # noqa: E402
from rau.vlm.reason import CaseCues, around  # noqa: E402
from rau.vlm.store import new_reasoner, save_reasoner  # noqa: E402

HIDDEN, CELLS = TINY.hidden, TINY.grid


def write_run(folder, model, two_way, moved: bool):
    """What `rau train sft` and `rau train fusion` leave, the projection back at zero or not."""
    save_reasoner(folder / "reasoner", new_reasoner(3, TINY))
    segmenter, digest = segmenter_of(str(model))
    sam = segmenter.model
    torch.manual_seed(0)
    fusion = Fusion(FusionConfig(HIDDEN, int(sam.hidden_dim), int(sam.mem_dim), two_way=two_way))
    if moved:
        torch.nn.init.normal_(fusion.back.layers[-1].weight, 0, 1.0)
    decoder = {PART + name: value for name, value in sam.sam_mask_decoder.state_dict().items()}
    fits = {"reasoner": checksums_of(folder / "reasoner"), "segmenter": digest}
    save_fusion(folder / "fusion", Fused(fusion, decoder, None, {"fits": fits, "settings": {"two_way": two_way}}))
    return folder


def packed(tmp, model, two_way, moved=True, uses=()):
    run = write_run(tmp / "run", model, two_way, moved)
    return pack(model, model, tmp / "model", "7", vlm=VlmRuns(run, run, uses)).path


@pytest.fixture(scope="module", params=["released", "conditioned"])
def folder(request, random_model, tmp_path_factory):
    return packed(tmp_path_factory.mktemp(request.param), random_model, request.param)


def run(folder, uses):
    """A run whose VLM finds everything, with these uses: its result, and how the locator was asked."""
    plain = {"adaptation": "off", "registration": "off", "look": "off", "quality": "off"}
    chosen = SegmentSettings(model=str(folder), device="cpu", **plain)
    engine = load_engine(chosen.model_copy(update={"reasoning": "on"}))
    locator, locate = engine.reasoning.locator, engine.reasoning.locator.locate
    asked = []

    def told(reference, masks, target, two_way="off"):
        asked.append(two_way)
        found = locate(reference, masks, target, two_way)
        return {name: replace(cue, presence=0.9) for name, cue in found.items()}

    locator.locate = told
    engine = replace(engine, reasoning=replace(engine.reasoning, uses=uses))
    result = segment([patient()], patient(5).image, chosen, engine=engine)
    return result, asked


def test_a_field_goes_to_the_decoder_only_where_its_use_is_on(folder):
    way = open_model(folder).manifest.vlm.fusion["two_way"]
    without, asked = run(folder, ("fusion",))
    assert set(asked) == {"off"} and not any("two-way" in one.parts for one in without.slices)
    result, asked = run(folder, ("fusion", "two-way"))
    assert set(asked) == {way}
    told = [one for one in result.slices if "fusion" in one.parts]
    assert told and all("two-way" in one.parts for one in told)
    assert not np.array_equal(result.labels.array, without.labels.array), "random weights move the masks"
    assert result.report()["reasoning"]["uses"] == ["fusion", "two-way"]
    assert run(folder, ("two-way",))[1][:1] == ["off"], "without the token there is nothing to add to"


def test_untrained_it_changes_no_voxel(random_model, tmp_path):
    model = packed(tmp_path, random_model, "conditioned", moved=False)
    with_it, without = (run(model, uses)[0] for uses in (("fusion", "two-way"), ("fusion",)))
    assert any("two-way" in one.parts for one in with_it.slices)
    assert np.array_equal(with_it.labels.array, without.labels.array)
    assert [one.score for one in with_it.structures] == [one.score for one in without.structures]


def test_everything_a_model_can_give_has_the_way_back_and_its_default_has_not(folder):
    assert load_engine(SegmentSettings(model=str(folder), device="cpu")).reasoning is None
    known = load_engine(SegmentSettings(model=str(folder), device="cpu", reasoning="on")).reasoning
    assert known.uses == () and known.all_uses == ("presence", "boxes", "fusion", "two-way")
    assert known.two_way(known.all_uses) == known.fusion.config.two_way
    assert known.two_way(("fusion",)) == known.two_way(("two-way",)) == known.two_way(()) == "off"


def test_a_packed_model_uses_it_by_default_where_it_was_told_to(random_model, tmp_path):
    model = packed(tmp_path, random_model, "released", uses=("fusion", "two-way"))
    assert load_engine(SegmentSettings(model=str(model), device="cpu")).reasoning.uses == ("fusion", "two-way")
    weights = open_model(model).tensors("fusion.safetensors")
    assert "back.layers.0.weight" in weights and weights["back.layers.2.weight"].shape[1] == HIDDEN


def test_a_use_without_what_it_needs_is_refused(random_model, folder, tmp_path):
    plain = write_run(tmp_path / "plain", random_model, "off", False)
    with pytest.raises(InputError, match="not trained two-way"):
        pack(random_model, random_model, tmp_path / "model", "7", vlm=VlmRuns(plain, plain, ("fusion", "two-way")))
    with pytest.raises(InputError, match="no use without fusion"):
        vlm_runs(plain, plain, "two-way", 0.5)
    assert vlm_runs(plain, plain, "fusion,two-way", 0.5).uses == ("fusion", "two-way")
    copy = shutil.copytree(folder, tmp_path / "copy")
    manifest = json.loads((copy / "model.json").read_text())
    manifest["vlm"]["uses"] = ["two-way"]
    (copy / "model.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="not valid at vlm"):
        open_model(copy)


def test_a_damaged_projection_is_refused(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    content = bytearray((copy / "fusion.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "fusion.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="damaged or was changed"):
        open_model(copy)


def cue(presence=1.0):
    return Cue(presence, (0.1, 0.1, 0.5, 0.5), np.zeros(4, np.float32), np.zeros((6, 6), np.float32))


def cues_of(uses=("fusion", "two-way")):
    known = {key: cue() for key in (2, 6)}
    tokens = {key: np.full(3, key, np.float32) for key in known}
    fields = {key: np.full((3, 2, 2), key, np.float32) for key in known}
    return CaseCues(0, 9, {1: known}, {1: tokens}, uses, 0.5, {}, {1: fields} if "two-way" in uses else {})


def test_between_key_slices_a_field_lies_between_and_beyond_them_there_is_none():
    hints = {t: cues_of().hints(t, [1]) for t in range(9)}
    assert [t for t, one in hints.items() if one is not None] == [2, 3, 4, 5, 6]
    assert [float(hints[t].fields[1][0, 0, 0]) for t in range(2, 7)] == [2, 3, 4, 5, 6]
    assert [float(hints[t].tokens[1][0]) for t in range(2, 7)] == [2, 2, 2, 6, 6]
    assert hints[3].parts == ("fusion", "two-way") and cues_of(("fusion",)).hints(3, [1]).parts == ("fusion",)


@given(st.sets(st.integers(0, 20), max_size=6), st.integers(-2, 22))
def test_the_slices_about_a_slice_are_the_nearest_on_either_side(keys, t):
    found = around(keys, t)
    if found is None:
        assert not any(key <= t for key in keys) or not any(key >= t for key in keys)
        return
    first, second, share = found
    assert first <= t <= second and {first, second} <= keys and 0 <= share <= 1
    assert not any(first < key < second for key in keys)
    assert (1 - share) * first + share * second == pytest.approx(t)
