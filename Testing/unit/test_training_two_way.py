"""RCMed's loss and way back in `rau train fusion`: terms against a brute force, what learns, resuming, the outcome."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusion_side import drawn, settings_of, write_models  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.errors import InputError  # noqa: E402
from rau.sam.segmenter import Masks  # noqa: E402
from rau.training import checkpoint  # noqa: E402
from rau.training import fusion as stage  # noqa: E402
from rau.training import fusion_objective as objective  # noqa: E402
from rau.training import two_way_loss as loss  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.fusion_outcome import load_fusion, segmenter_of  # noqa: E402
from rau.training.objective import iou_error  # noqa: E402
from rau.training.sets import Mixtures  # noqa: E402
from rau.vlm.dialogue import ABSENT, encode, token_of  # noqa: E402
from rau.vlm.store import load_reasoner  # noqa: E402

WAYS = ("released", "conditioned")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def anatomies():
    return Mixture((("anatomies", 1.0, Anatomies(0, 4)),))


@pytest.fixture(autouse=True)
def small_sources(monkeypatch, anatomies):
    monkeypatch.setattr(stage, "mixtures", lambda *_: Mixtures(*[anatomies] * 4))


def some_masks(seed: int, count: int = 3, side: int = 7):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 2, (count, 1, side, side))).float()
    return logits, torch.from_numpy(rng.random((count, 1, side, side)) > 0.6).float()


def edge(mask: np.ndarray) -> np.ndarray:
    """Highest minus lowest of each pixel and its neighbours, pixel by pixel. (S, S) -> (S, S)."""
    made = np.zeros_like(mask)
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            near = mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            made[y, x] = near.max() - near.min()
    return made


def entropy(told: np.ndarray, truth: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return -(truth * np.maximum(np.log(told), -100) + (1 - truth) * np.maximum(np.log(1 - told), -100))


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 9))
@settings(max_examples=25, deadline=None)
def test_the_terms_are_those_of_the_paper_pixel_by_pixel(seed, count, side):
    logits, truth = some_masks(seed, count, side)
    p, g = (1 / (1 + np.exp(-logits.double().numpy())))[:, 0], truth.double().numpy()[:, 0]
    assert float(loss.bce_term(logits, truth)) == pytest.approx(entropy(p, g).mean(), rel=1e-4)
    dice = [1 - (2 * (a * b).sum() / 1000 + 1e-6) / ((a.sum() + b.sum()) / 1000 + 1e-6) for a, b in zip(p, g)]
    assert float(loss.dice_term(logits, truth)) == pytest.approx(np.mean(dice), rel=1e-4, abs=1e-6)
    borders = np.stack([edge(one) for one in g])
    assert np.array_equal(loss.boundary_of(truth)[:, 0].double().numpy(), borders)
    wanted = np.mean([entropy(edge(a), b) for a, b in zip(p, borders)])
    assert float(loss.boundary_term(logits, truth)) == pytest.approx(wanted, rel=1e-3)


def test_a_border_is_two_pixels_wide_and_the_picture_has_none_of_its_own():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3:] = 1
    assert loss.boundary_of(mask)[0, 0, 4].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    assert not loss.boundary_of(torch.ones(1, 1, 8, 8)).any()


def test_a_perfect_mask_costs_next_to_nothing_and_a_moved_border_is_seen():
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:24, 8:24] = 1
    sure = 40 * (2 * truth - 1)
    for term in (loss.bce_term, loss.dice_term, loss.boundary_term):
        assert float(term(sure, truth)) < 1e-4 < float(term(sure.roll(3, 3), truth))


def answered(logits, presence=2.0):
    count = len(logits)
    return Masks(logits, torch.full((count,), presence), torch.full((count,), 0.5))


def test_the_loss_is_the_published_sum_and_what_sam2_says_of_itself():
    logits, truth = some_masks(3, 4, 16)
    here, ce = torch.tensor([True, False, True, True]), torch.tensor(1.7)
    weights = loss.Weights()
    assert (weights.ce, weights.bce, weights.dice, weights.boundary) == (1.0, 0.5, 2.0, 0.2)
    masks, a, b = answered(logits), logits[here], truth[here]
    own = 0.5 * torch.nn.functional.binary_cross_entropy_with_logits(masks.presence, here.float())
    own = own + 0.5 * iou_error(masks.iou[here], a, b)
    terms = (ce, loss.bce_term(a, b), loss.dice_term(a, b), loss.boundary_term(a, b))
    wanted = own + 1.0 * terms[0] + 0.5 * terms[1] + 2.0 * terms[2] + 0.2 * terms[3]
    assert torch.allclose(loss.two_way_loss(masks, truth, here, ce, weights), wanted)
    nothing = loss.two_way_loss(masks, truth, here, ce, loss.Weights(0, 0, 0, 0))
    assert torch.allclose(nothing, own)
    changed = torch.where(here[:, None, None, None], truth, 1 - truth)
    assert torch.equal(loss.two_way_loss(masks, changed, here, ce, weights), wanted), "absent ones take no part"
    with pytest.raises(ValueError, match="negative"):
        loss.Weights(boundary=-0.1)


def test_without_a_structure_the_loss_has_a_gradient_all_the_same():
    logits, truth = some_masks(1)
    logits.requires_grad_(True)
    value = loss.two_way_loss(answered(logits), truth, torch.zeros(3, dtype=torch.bool), None, loss.Weights())
    value.backward()
    assert value.isfinite() and not logits.grad.any()


def test_masks_far_from_any_doubt_keep_the_gradient_finite():
    logits = torch.tensor([30.0, -30.0, 90.0, 0.0]).view(4, 1, 1, 1).expand(4, 1, 8, 8).clone()
    logits[:, :, 3:5, 3:5] *= -1
    logits.requires_grad_(True)
    loss.boundary_term(logits, torch.zeros(4, 1, 8, 8).index_fill(2, torch.tensor([2]), 1.0)).backward()
    assert logits.grad.isfinite().all()


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("two_way", WAYS)
def test_the_way_back_learns_and_neither_vlm_nor_encoder_does(models, tmp_path, anatomies, two_way):
    run = stage.Run(settings_of(models, tmp_path, two_way=two_way, bare=0.0))
    vlm, sam, fusion = (copied(one) for one in (run.loaded.reasoner, run.segmenter.model, run.learner.fusion))
    assert not run.learner.fusion.back.layers[-1].weight.any()
    for _ in range(3):
        assert np.isfinite(run.train_step(anatomies))
    moved = {key for key, value in run.learner.fusion.state_dict().items() if not torch.equal(fusion[key], value)}
    assert moved == set(fusion), "both layers of the projection among them"
    assert all(torch.equal(value, run.loaded.reasoner.state_dict()[key]) for key, value in vlm.items())
    touched = {key for key, value in run.segmenter.model.state_dict().items() if not torch.equal(sam[key], value)}
    assert touched and all(key.startswith("sam_mask_decoder.") for key in touched)


def test_switched_on_untrained_the_masks_are_those_of_one_way_bit_for_bit(models, tmp_path, anatomies):
    found = {}
    for two_way in ("off", *WAYS):
        run = stage.Run(settings_of(models, tmp_path / two_way, two_way=two_way))
        with torch.no_grad():
            scene = run.scene(anatomies)
            found[two_way] = objective.answer(run.segmenter, run.learner.fusion, scene, boxes=True)
        assert (scene.told.target is None) is (two_way == "off")
    for two_way in WAYS:
        assert torch.equal(found["off"].masks.logits, found[two_way].masks.logits)
        assert torch.equal(found["off"].alpha, found[two_way].alpha)


@pytest.mark.parametrize("two_way", WAYS)
def test_permuted_structures_keep_their_own_fields(models, anatomies, two_way):
    loaded, (segmenter, _) = load_reasoner(models / "sft" / "reasoner"), segmenter_of(str(models / "tiny"))
    batch, items = drawn(anatomies)
    turned = items[::-1]
    torch.manual_seed(0)
    fusion = objective.Fusion(stage.FusionConfig(64, 32, 32, two_way=two_way))
    torch.nn.init.normal_(fusion.back.layers[-1].weight, 0, 0.3)
    with torch.no_grad():
        ahead, back = (
            objective.see(segmenter, batch, objective.ask(loaded, batch, some, two_way)) for some in (items, turned)
        )
        one, two = (objective.answer(segmenter, fusion, scene) for scene in (ahead, back))
        plain = objective.answer(
            segmenter, fusion, replace(ahead, told=replace(ahead.told, target=ahead.told.target * 0))
        )
    order = back.told.rows
    assert order.tolist() != ahead.told.rows.tolist()
    assert torch.allclose(one.masks.logits[order], two.masks.logits, atol=1e-3)
    assert not torch.allclose(one.masks.logits, plain.masks.logits, atol=1e-2)


def test_the_cross_entropy_is_that_of_the_answers_where_absent_structures_are_called_so(models):
    loaded, source = load_reasoner(models / "sft" / "reasoner"), Anatomies(0, 4)
    source.removal = 1.0
    batch, items = drawn(Mixture((("anatomies", 1.0, source),)))
    here = [one.box is not None for item in items for one in item.structures]
    encoded = encode(loaded.processor, [item.dialogue(forced=True) for item in items])
    absent, costs = token_of(loaded.processor.tokenizer, ABSENT), []
    states = {(int(row), int(spot)): there for row, spot, there in zip(encoded.of, encoded.spots, here)}
    with torch.no_grad():
        told = objective.ask(loaded, batch, items, with_ce=True)
        likely = loaded.reasoner.logits(loaded.reasoner.read(encoded.inputs).hidden).log_softmax(-1)
    for row, (start, end) in enumerate(encoded.answers):
        for at in range(start, end):
            said = int(encoded.inputs["input_ids"][row, at]) if states.get((row, at), True) else absent
            costs.append(-float(likely[row, at - 1, said]))
    assert not all(here), "one at least is absent"
    assert float(told.ce) == pytest.approx(np.mean(costs), rel=1e-4)
    assert objective.ask(loaded, batch, items).ce is None


@pytest.mark.parametrize("two_way", WAYS)
def test_a_resumed_run_ends_where_a_straight_one_does_and_its_outcome_can_be_read(models, tmp_path, anatomies, two_way):
    straight = settings_of(models, tmp_path / "straight", steps=4, two_way=two_way, bare=0.0)
    assert [row["step"] for row in stage.train(straight)] == [2, 4]
    broken = replace(straight, folder=str(tmp_path / "broken"))
    assert next(stage.train(broken))["step"] == 2
    assert [row["step"] for row in stage.train(broken)] == [4]
    a, b = (stage.Run(one) for one in (straight, broken))
    assert all(torch.equal(value, b.learner.state_dict()[key]) for key, value in a.learner.state_dict().items())
    fused = load_fusion(tmp_path / "straight" / "fusion")
    assert fused.fusion.config.two_way == two_way == fused.record["settings"]["two_way"]
    assert fused.record["settings"]["boundary"] == 0.2 and fused.fusion.back.layers[-1].weight.any()
    a.learner.load_state_dict(stage.checkpoint.averaged_weights(a.best))
    segmenter, _ = segmenter_of(str(models / "tiny"))
    fused.put_into(segmenter)
    with torch.no_grad():
        scene = a.scene(anatomies)
        ours = objective.answer(a.segmenter, a.learner.fusion, scene)
        assert torch.equal(ours.masks.logits, objective.answer(segmenter, fused.fusion, scene).masks.logits)
    with pytest.raises(InputError, match="two_way"):
        stage.Run(replace(straight, two_way="off"))


def test_a_run_that_began_before_there_was_a_way_back_goes_on(models, tmp_path):
    first = settings_of(models, tmp_path)
    list(stage.train(first))
    old = checkpoint.settings_of(tmp_path / "state.safetensors")
    run = stage.Run(first)
    kept = {key: value for key, value in old.items() if key not in ("two_way", "loss", "ce", "bce", "dice", "boundary")}
    checkpoint.save(run.state, run.learner, run.optimiser, run.progress, kept)
    assert [row["step"] for row in stage.train(replace(first, steps=3))] == [3]


def test_the_loss_is_raus_unless_two_way_or_asked_for(models, tmp_path):
    weights = loss.Weights(0.0, 0.5, 1.0, 0.2)
    chosen = {"ce": 0.0, "dice": 1.0}
    told = {
        ("auto", "off"): None,
        ("rau", "released"): None,
        ("auto", "released"): weights,
        ("rcmed", "off"): weights,
    }
    for (name, two_way), wanted in told.items():
        assert settings_of(models, tmp_path, loss=name, two_way=two_way, **chosen).weights == wanted
    for wrong in ({"loss": "dice"}, {"two_way": "both"}, {"loss": "rcmed", "bce": -1.0}):
        with pytest.raises(InputError):
            stage.Run(settings_of(models, tmp_path / "wrong", **wrong))
    assert "two_way" in json.dumps(stage.asdict(settings_of(models, tmp_path)))
