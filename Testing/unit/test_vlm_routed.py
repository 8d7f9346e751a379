"""The routed answer in the pipeline: written, understood, its states read, its boxes and looks made use of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from vlm_side import TINY, lively, masks_of, picture  # noqa: E402

from rau import pipeline  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.models.store import open_model, write_model  # noqa: E402
from rau.pipeline import segment  # noqa: E402
from rau.references.reference import Reference  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.vlm import routed_locate  # noqa: E402
from rau.vlm.cues import Cue, between  # noqa: E402
from rau.vlm.locate import Locator  # noqa: E402
from rau.vlm.prefix import PrefixCache  # noqa: E402
from rau.vlm.prompts import MOST  # noqa: E402
from rau.vlm.reason import CaseCues  # noqa: E402
from rau.vlm.routed_cues import open_routes  # noqa: E402
from rau.vlm.routed_locate import RoutedLocator, Said, understood  # noqa: E402
from rau.vlm.routing import ASKS, UNKNOWN, Route, RoutedAnswer, write_routed  # noqa: E402
from rau.vlm.store import new_reasoner, save_reasoner  # noqa: E402
from rau.volume.volume import Geometry, LabelMap, Structure, Volume  # noqa: E402

NAMES = ("liver", "spleen")
ANSWER = RoutedAnswer("magnetic resonance", {"liver": Route(True), "spleen": Route(True, True)})


@pytest.fixture(scope="module")
def loaded():
    return lively(open_routes(new_reasoner(3, TINY)))


def masks(names=NAMES):
    return masks_of(names, (3, 2))


@pytest.fixture
def written(monkeypatch):
    """Every answer is this one; gives the questions that were asked."""
    asked = []

    def write(loaded, dialogue, most, device):
        asked.append(dialogue.question)
        return write_routed(ANSWER, ASKS)

    monkeypatch.setattr(routed_locate, "generate", write)
    return asked


def test_a_good_answer_is_understood_and_a_faulty_one_told_with_what_it_still_says():
    assert understood(write_routed(ANSWER, ASKS), NAMES) == Said(
        "magnetic resonance", "Magnetic resonance. Seen: liver, spleen (small)."
    )
    cut = understood("<think></think><answer>ultrasound, liver <Det>;</answer>", NAMES)
    assert (cut.modality, cut.words) == ("ultrasound", "") and "<Seg>" in cut.fault
    assert understood("computed", NAMES).modality == UNKNOWN


@given(st.text(max_size=60))
def test_whatever_is_written_is_understood_or_is_a_fault(text):
    for whole in (text, f"<think></think><answer>{text}</answer>"):
        said = understood(whole, NAMES)
        assert bool(said.words) != bool(said.fault) and "\n" not in said.fault


def test_an_untrained_model_writes_no_answer_and_its_numbers_are_there_all_the_same(loaded):
    locator = RoutedLocator(loaded)
    found = locator.locate(picture(0), masks(), picture(1))
    assert list(found) == list(NAMES)
    for one in found.values():
        assert 0 <= one.presence <= 1 and 0 <= one.look <= 1 and one.state.shape == (64,)
        assert one.box[0] <= one.box[2] and one.mask.shape == (loaded.cells, loaded.cells)
    (said,) = locator.said
    assert said.fault and not said.words


def test_the_answer_is_asked_for_once_in_each_dialogue(loaded, written):
    locator = RoutedLocator(loaded)
    names = tuple(f"part {k}" for k in range(MOST + 1))
    found = locator.locate(picture(0), masks(names), picture(1))
    assert list(found) == list(names) and len(written) == len(locator.said) == 2
    locator.locate(picture(0), masks(), picture(1))
    assert len(locator.said) == 1, "of the last call"


def test_the_prefix_is_shared_and_changes_nothing(loaded, written):
    cache = PrefixCache("model")
    Locator(loaded, cache).locate(picture(0), masks(), picture(1))
    kept = cache.reused
    fresh, cached = (RoutedLocator(loaded, one).locate(picture(0), masks(), picture(1)) for one in (None, cache))
    assert cache.reused > kept, "the reference's part is the same in both questions"
    for name in NAMES:
        assert np.allclose(fresh[name].state, cached[name].state, atol=1e-4)
        assert np.allclose(fresh[name].box, cached[name].box, atol=1e-5)
        assert abs(fresh[name].look - cached[name].look) < 1e-4


def test_another_row_for_det_moves_the_boxes(loaded, written):
    before = RoutedLocator(loaded).locate(picture(0), masks(), picture(1))
    table = loaded.reasoner.base.get_input_embeddings().weight
    kept = table.detach().clone()
    with torch.no_grad():
        table[loaded.processor.tokenizer.convert_tokens_to_ids("<Det>")] += 3
    after = RoutedLocator(loaded).locate(picture(0), masks(), picture(1))
    with torch.no_grad():
        table.copy_(kept)
    assert any(not np.allclose(before[name].box, after[name].box, atol=1e-4) for name in NAMES)


def cue(look):
    return Cue(0.9, (0.1, 0.1, 0.3, 0.3), np.zeros(4, np.float32), np.zeros((6, 6), np.float32), look=look)


def test_looks_are_interpolated_between_key_slices_and_hold_beyond_them():
    cues = CaseCues(1, 9, {1: {2: cue(1.0), 6: cue(0.0)}, 2: {4: cue(None)}}, {}, (), 0.5)
    assert [cues.look(1, 1, t) for t in (0, 2, 3, 6, 8)] == [1.0, 1.0, 0.75, 0.0, 0.0]
    assert cues.look(0, 1, 2) is None and cues.look(1, 2, 4) is None and cues.look(1, 3, 4) is None
    assert between(cue(1.0), cue(0.0), 0.25).look == 0.75 and between(cue(1.0), cue(None), 0.25).look is None


@pytest.fixture(scope="module")
def folders(random_model, loaded, tmp_path_factory):
    """The random model with a VLM that learnt routing, and with one that did not."""
    path, base = tmp_path_factory.mktemp("with vlm"), open_model(random_model)
    weights = {name: base.tensors(name) for name in ("segmenter.safetensors", "encoder.safetensors")}
    fields = base.manifest.model_dump(exclude={"files"}) | {"vlm": {"uses": [], "presence_threshold": 0.0}}
    made = {}
    for name, one in (("routed", loaded), ("plain", replace(loaded, routes=False))):
        save_reasoner(path / f"made {name}", one, half=True)
        made[name] = write_model(path / name, fields, weights, vlm=path / f"made {name}").path
    return made


def patient(seed=0):
    array = np.random.default_rng(seed).normal(size=(4, 80, 96)).astype(np.float32)
    labels = np.zeros(array.shape, np.uint8)
    labels[:, 8:60, 10:70], labels[:, 66:74, 40:50] = 1, 2
    named = (Structure(1, "liver", (1, 0, 0), ""), Structure(2, "spleen", (0, 1, 0), ""))
    grid = Geometry(array.shape, (4.0, 1.0, 1.0))
    return Reference(Volume(array, grid, "MR"), LabelMap(labels, grid, named))


def run(folder, **more):
    chosen = {"model": str(folder), "device": "cpu", "adaptation": "off", "registration": "off", "quality": "off"}
    settings = SegmentSettings(**chosen, **more)
    return segment([patient()], patient(5).image, settings, engine=load_engine(settings))


def test_one_answer_gives_words_boxes_and_looks_to_a_run(folders, written, monkeypatch):
    asked = []
    monkeypatch.setattr(CaseCues, "look", lambda self, axis, value, t: asked.append((axis, value, t)) or 0.0)
    result = run(folders["routed"], reasoning="routed", look="routed")
    assert pipeline.UNROUTED not in result.warnings
    told = result.report()["reasoning"]
    json.dumps(told)
    assert {one["words"] for one in told["answers"]} == {"Magnetic resonance. Seen: liver, spleen (small)."}
    assert all(0 <= one["look"] <= 1 for one in told["cues"]) and len(told["answers"]) == len(written) == 4
    assert any("boxes" in one.parts for one in result.slices)
    assert asked and not any(pipeline.CLOSER in one.parts for one in result.slices), "no look where none is wanted"


def test_a_model_that_never_learnt_routing_goes_without_and_says_so(folders, written):
    result = run(folders["plain"], reasoning="routed", look="routed")
    assert result.warnings.count(pipeline.UNROUTED) == 1 and not written
    assert "answers" not in result.report()["reasoning"]
    other = run(folders["routed"], look="routed")
    assert pipeline.UNROUTED in other.warnings and other.report()["reasoning"] == {}


def test_a_packed_model_is_still_routed(random_model, loaded, tmp_path):
    from rau.training.pack import VlmRuns, pack

    save_reasoner(tmp_path / "run" / "reasoner", loaded)
    made = pack(random_model, random_model, tmp_path / "packed", "7", vlm=VlmRuns(tmp_path / "run"))
    engine = load_engine(SegmentSettings(model=str(made.path), device="cpu", reasoning="routed"))
    assert isinstance(engine.reasoning.routed().locator, RoutedLocator)


def test_nothing_is_routed_unless_it_is_asked_for(folders, written):
    for reasoning in ("auto", "on"):
        assert "answers" not in run(folders["routed"], reasoning=reasoning).report()["reasoning"]
    assert not written
