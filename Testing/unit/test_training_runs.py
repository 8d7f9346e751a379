"""Training resumes exactly, logs, and learns to overfit; seconds, not minutes."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.models.store import open_model  # noqa: E402
from rau.sam.segmenter import Masks  # noqa: E402
from rau.training import checkpoint, encoder, objective, segmenter  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.pack import pack  # noqa: E402

SMALL = {
    "steps": 4,
    "image_size": 64,
    "frames": 4,
    "structures": 2,
    "every": 2,
    "anatomies": 3,
    "warmup": 1,
    "ramp": 2,
}


def weights(folder):
    return checkpoint.averaged_weights(folder / "state.safetensors")


def test_a_resumed_run_ends_where_a_straight_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "validate", lambda *a, **k: {"mean": 0.0})
    straight = segmenter.SegmenterTraining(str(tmp_path / "straight"), **SMALL)
    list(segmenter.train(straight))
    broken = replace(straight, folder=str(tmp_path / "broken"))
    next(segmenter.train(broken))
    assert checkpoint_step(tmp_path / "broken") == 2
    list(segmenter.train(broken))
    a, b = weights(tmp_path / "straight"), weights(tmp_path / "broken")
    assert all(torch.equal(a[k], b[k]) for k in a)
    with (tmp_path / "broken" / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]
    assert (tmp_path / "broken" / "curves.png").stat().st_size > 1000


def checkpoint_step(folder):
    from safetensors import safe_open

    with safe_open(folder / "state.safetensors", "pt") as file:
        return int(file.metadata()["step"])


def test_validation_scores_each_source_beside_copying(tmp_path):
    run = segmenter.Run(segmenter.SegmenterTraining(str(tmp_path), **SMALL))
    run.segmenter.set_size(64)
    scores = segmenter.validate(run.segmenter, Mixture((("anatomies", 1.0, Anatomies(0, 3)),)), 64, batches=1)
    assert set(scores) == {"anatomies", "anatomies copied", "mean", "neighboured", "presence", "prompted"}
    assert 0.2 < scores["anatomies copied"] < 1 and 0 <= scores["anatomies"] <= 1


def test_the_loss_is_lowest_for_the_truth_and_teaches_the_gate():
    truth = torch.zeros(3, 1, 16, 16)
    truth[:2, :, 4:9, 4:9] = 1
    present = torch.tensor([True, True, False])
    right = Masks((truth * 2 - 1) * 9, torch.tensor([9.0, 9.0, -9.0]), torch.ones(3))
    wrong_mask = Masks(-right.logits, right.presence, right.iou)
    wrong_gate = Masks(right.logits, -right.presence, right.iou)
    best = objective.loss_of(right, truth, present)
    assert best < 0.05
    assert objective.loss_of(wrong_mask, truth, present) > best + 1
    assert objective.loss_of(wrong_gate, truth, present) > best + 1
    absent = objective.loss_of(right, torch.zeros(3, 1, 16, 16), torch.zeros(3, dtype=torch.bool))
    assert torch.isfinite(absent)


def test_gradients_reach_gate_memory_and_encoder(tmp_path):
    run = segmenter.Run(segmenter.SegmenterTraining(str(tmp_path), **SMALL))
    run.train_step(run.batch(Anatomies(0, 3), 0))
    for name in ("sam_mask_decoder.pred_obj_score_head", "memory_encoder", "memory_attention", "image_encoder.trunk"):
        assert any(
            p.grad is not None and p.grad.abs().sum() > 0 for n, p in run.model.named_parameters() if n.startswith(name)
        )


def test_spoiled_masks_stay_masks():
    masks = torch.zeros(4, 1, 64, 64)
    masks[:, :, 20:40, 20:40] = 1
    for seed in range(10):
        out = objective.spoiled(masks, np.random.default_rng(seed))
        assert set(out.unique().tolist()) <= {0.0, 1.0} and out.shape == masks.shape


def test_the_encoder_run_resumes_and_both_are_packed_into_a_verified_model(tmp_path):
    list(segmenter.train(segmenter.SegmenterTraining(str(tmp_path / "s"), **{**SMALL, "steps": 1, "every": 1})))
    training = encoder.EncoderTraining(str(tmp_path / "e"), steps=4, pairs=3, every=2, anatomies=3)
    first = next(encoder.train(training))
    assert first["step"] == 2
    assert [row["step"] for row in encoder.train(training)] == [4]
    folder = pack(tmp_path / "s", tmp_path / "e", tmp_path / "model", "9.9")
    assert open_model(tmp_path / "model").manifest.version == "9.9"
    assert str(tmp_path) not in (folder.path / "model.json").read_text(), "no path of this machine in a model"


def test_contrast_prefers_matched_pairs():
    eye = torch.eye(4)
    assert encoder.contrast(eye, eye, 0.1) < 0.01 < encoder.contrast(eye, eye.roll(1, 0), 0.1)
