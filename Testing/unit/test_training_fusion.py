"""RAU stage 3 on a tiny VLM and a tiny SAM2: what learns and what does not, order of structures, resuming, outcome."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fusion_side import TINY, drawn, settings_of, write_models  # noqa: E402

from rau.errors import InputError, ModelError  # noqa: E402
from rau.training import fusion as stage  # noqa: E402
from rau.training import fusion_objective as objective  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.fusion_outcome import load_fusion, segmenter_of  # noqa: E402
from rau.training.objective import loss_of  # noqa: E402
from rau.training.sets import Mixtures  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner, save_reasoner  # noqa: E402


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def anatomies():
    return Mixture((("anatomies", 1.0, Anatomies(0, 4)),))


@pytest.fixture(autouse=True)
def small_sources(monkeypatch, anatomies):
    monkeypatch.setattr(stage, "mixtures", lambda *_: Mixtures(*[anatomies] * 4))


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(before, module):
    return {key for key, value in module.state_dict().items() if not torch.equal(before[key], value)}


@pytest.mark.parametrize(("decoder", "rows"), [(True, True), (False, True), (True, False)])
def test_only_what_is_asked_for_learns(models, tmp_path, anatomies, decoder, rows):
    wanted = settings_of(models, tmp_path, train_decoder=decoder, train_rows=rows, bare=0.0)
    run = stage.Run(wanted)
    vlm, sam, fusion = (copied(one) for one in (run.loaded.reasoner, run.segmenter.model, run.learner.fusion))
    row = run.learner.row.weight.clone() if rows else None
    for _ in range(2):
        assert np.isfinite(run.train_step(anatomies))
    assert not changed(vlm, run.loaded.reasoner)
    touched = changed(sam, run.segmenter.model)
    assert bool(touched) is decoder and all(key.startswith("sam_mask_decoder.") for key in touched)
    assert not any("conv_s" in key for key in touched)
    assert changed(fusion, run.learner.fusion) == set(fusion)
    assert (run.learner.row is None) is not rows
    if rows:
        assert not torch.equal(row, run.learner.row.weight)
    assert not changed(sam, run.plain.model)


def test_the_row_of_seg_is_read_in_its_place_and_nowhere_else(models, anatomies):
    loaded = load_reasoner(models / "sft" / "reasoner")
    batch, items = drawn(anatomies)
    with torch.no_grad():
        plain = objective.ask(loaded, batch, items)
        row = objective.Row(loaded.reasoner)
        with row.used_by(loaded.reasoner):
            same = objective.ask(loaded, batch, items)
            row.weight.add_(1.0)
            other = objective.ask(loaded, batch, items)
        again = objective.ask(loaded, batch, items)
    assert torch.equal(plain.states, same.states) and torch.equal(plain.states, again.states)
    assert (plain.states - other.states).abs().amax(1).min() > 1e-3


def test_a_resumed_run_ends_where_a_straight_one_does_and_its_outcome_can_be_read(models, tmp_path, anatomies):
    straight = settings_of(models, tmp_path / "straight", steps=4)
    scores = list(stage.train(straight))
    assert [row["step"] for row in scores] == [2, 4]
    broken = replace(straight, folder=str(tmp_path / "broken"))
    assert next(stage.train(broken))["step"] == 2
    assert [row["step"] for row in stage.train(broken)] == [4] and not list(stage.train(broken))
    a, b = (stage.Run(one).learner.state_dict() for one in (straight, broken))
    assert all(torch.equal(a[key], b[key]) for key in a)
    kinds = {"memory", "boxes", "fusion", "both"}
    wanted = kinds | {f"{one} prompted" for one in kinds} | {f"giou {one}" for one in kinds} | {"bare", "entropy"}
    assert wanted <= set(scores[0]) and all(0 <= scores[0][key] <= 1 for key in wanted)
    with (tmp_path / "broken" / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    for name in ("curves.png", "attention.png"):
        assert (tmp_path / "broken" / name).stat().st_size > 1000
    check_outcome(models, tmp_path / "straight" / "fusion", stage.Run(straight), anatomies)


def check_outcome(models, folder, run, anatomies):
    """fusion/ names what it fits, no path, and gives the z and the masks of the run's best weights."""
    fused = load_fusion(folder)
    assert fused.record["fits"] == run.fits and set(run.fits["reasoner"]) == {"heads.safetensors", "model.safetensors"}
    assert str(models) not in json.dumps(dict(fused.record))
    assert fused.record["attention"]["attended"] and fused.record["scores"]["step"] == run.progress.best_step
    run.learner.load_state_dict(stage.checkpoint.averaged_weights(run.best))
    segmenter, _ = segmenter_of(str(models / "tiny"))
    fused.put_into(segmenter)
    batch, items = drawn(anatomies, 1)
    with torch.no_grad(), run.row_in_use():
        scene = objective.see(segmenter, batch, objective.ask(run.loaded, batch, items))
        ours = objective.answer(run.segmenter, run.learner.fusion, scene, boxes=True)
        read = objective.answer(segmenter, fused.fusion, scene, boxes=True)
    assert torch.equal(ours.alpha, read.alpha) and torch.equal(ours.masks.logits, read.masks.logits)
    assert torch.equal(fused.row, run.learner.row.weight)


def test_a_run_goes_on_only_with_what_it_began_with(models, tmp_path):
    first = settings_of(models, tmp_path / "run")
    list(stage.train(first))
    with pytest.raises(InputError, match="spatial_side"):
        stage.Run(replace(first, spatial_side=2))
    save_reasoner(tmp_path / "other" / "reasoner", new_reasoner(1, TINY))
    with pytest.raises(InputError, match="another reasoner"):
        stage.Run(replace(first, reasoner=str(tmp_path / "other")))
    with pytest.raises(InputError, match="holds no reasoner"):
        stage.Run(replace(first, reasoner=str(tmp_path)))
    with pytest.raises(InputError, match="injection"):
        stage.Run(replace(first, folder=str(tmp_path / "new"), injection="nowhere"))
    (tmp_path / "run" / "fusion" / "decoder.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read"):
        load_fusion(tmp_path / "run" / "fusion")


def test_permuted_structures_are_permuted_rows(models, anatomies):
    """W3: whatever the order in which the VLM is asked, a state goes with the slots and the mask of its structure."""
    loaded, (segmenter, _) = load_reasoner(models / "sft" / "reasoner"), segmenter_of(str(models / "tiny"))
    batch, items = drawn(anatomies)
    turned = [replace(item, structures=item.structures[::-1]) for item in items[::-1]]
    with torch.no_grad():
        ahead = objective.see(segmenter, batch, objective.ask(loaded, batch, items))
        back = objective.see(segmenter, batch, objective.ask(loaded, batch, turned))
    assert ahead.told.rows.tolist() == list(range(len(batch.of)))
    order = back.told.rows
    assert sorted(order.tolist()) == ahead.told.rows.tolist() and order.tolist() != ahead.told.rows.tolist()
    named = dict(zip(ahead.told.rows.tolist(), ahead.told.names))
    assert [named[k] for k in order.tolist()] == list(back.told.names)
    for name in ("masks", "truth", "present", "image"):
        assert torch.equal(getattr(ahead, name)[order], getattr(back, name))
    same = replace(ahead.told, rows=order, states=ahead.told.states[order], boxes=ahead.told.boxes[order])
    same = replace(same, presence=ahead.told.presence[order], names=back.told.names)
    fusion = objective.Fusion(stage.FusionConfig(64, 32, 32))
    with torch.no_grad():
        one = objective.answer(segmenter, fusion, ahead)
        two = objective.answer(segmenter, fusion, objective.see(segmenter, batch, same))
    assert torch.allclose(one.masks.logits[order], two.masks.logits, atol=1e-4)
    assert torch.allclose(one.alpha[order], two.alpha, atol=1e-5)


def test_a_structure_that_is_not_of_the_batch_is_an_error(anatomies):
    batch, items = drawn(anatomies)
    twice = replace(items[0], structures=(items[0].structures[0], items[0].structures[0]))
    moved = replace(items[0], drawn=items[1].drawn)
    for wrong in (twice, moved):
        with pytest.raises(RuntimeError, match="no structure of its batch"):
            objective.rows_of(batch, [wrong])


@pytest.mark.parametrize(
    ("width", "side", "injection"), [(64, 0, "token"), (1024, 2, "token"), (0, 0, "target"), (64, 2, "target")]
)
def test_every_width_and_injection_trains(models, tmp_path, anatomies, width, side, injection):
    run = stage.Run(settings_of(models, tmp_path, width=width, spatial_side=side, injection=injection, bare=0.0))
    assert np.isfinite(run.train_step(anatomies)) and run.config.width == (width or 32)
    with torch.no_grad():
        scene = run.scene(anatomies)
        told = objective.answer(run.segmenter, run.learner.fusion, scene)
    assert told.alpha.shape == (len(scene.present), 2 + side * side)


def test_the_loss_falls_on_one_scene(models, tmp_path, anatomies):
    run = stage.Run(settings_of(models, tmp_path, train_rows=False))
    scene = run.scene(anatomies)
    losses = []
    for _ in range(25):
        masks = objective.answer(run.segmenter, run.learner.fusion, scene).masks
        loss = loss_of(masks, scene.truth, scene.present)
        run.optimiser.zero_grad()
        loss.backward()
        run.optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_boxes_are_pixels_and_absent_structures_have_none():
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.2], [0.1, 0.1, 0.9, 0.9], [0.5, 0.5, 0.501, 0.9], [1.1, 0.0, 1.5, 1.0]])
    presence = torch.tensor([1.0, -1.0, 1.0, 1.0])
    told = objective.Told(torch.arange(4), tuple("abcd"), torch.zeros(4, 8), presence, boxes)
    found = objective.boxes_of(told, 64)
    assert found[0].tolist() == [16, 32, 48, 64] and found[1:].isnan().all()
