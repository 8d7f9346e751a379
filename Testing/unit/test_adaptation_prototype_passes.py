"""SAM2 led by a prototype, without memory: its own steps, and what each pass is told."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.adaptation import prototype_passes as passes  # noqa: E402
from rau.adaptation.prototype import BIAS, prototype, similarity  # noqa: E402
from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.injection import injected  # noqa: E402
from rau.sam.segmenter import Segmenter  # noqa: E402


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    model = build_sam2(mini.sam_config, {**mini.sam_overrides, "image_size": 128}).eval()
    model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(3.0)
    return Segmenter(model.requires_grad_(False))


@pytest.fixture(scope="module")
def scene(segmenter):
    generator = torch.Generator().manual_seed(1)
    features = segmenter.encode(torch.randn(2, 3, 128, 128, generator=generator))
    masks = torch.zeros(2, 1, 128, 128)
    masks[0, :, 16:64, 16:64], masks[1, :, 64:112, 48:96] = 1, 1
    known = torch.stack([prototype(features.levels[-1][:1], masks[k : k + 1]) for k in range(2)])
    rows = features.rows(torch.ones(2, dtype=torch.long))
    return rows, known, masks, features.rows(torch.zeros(2, dtype=torch.long))


def test_points_without_memory_are_a_first_step_of_sam2_itself(segmenter, scene):
    features, _, _, _ = scene
    where, labels = torch.tensor([[[20.0, 30.0], [90.0, 90.0]]] * 2), torch.tensor([[1, 0]] * 2, dtype=torch.int32)
    ours = passes.prompted(segmenter, features, where, labels)
    feats, positions, sizes = segmenter._flat(features)
    told, nothing = {"point_coords": where, "point_labels": labels}, {"cond_frame_outputs": {}}
    with injected(segmenter.model.sam_mask_decoder, None):
        theirs = segmenter.model.track_step(
            0, True, feats, positions, sizes, told, None, nothing, 1, run_mem_encoder=False
        )
    assert bool((ours.presence > 0).all())
    assert torch.allclose(theirs["pred_masks"], ours.logits, atol=1e-5)


def test_each_pass_is_told_more_and_the_place_raises_the_logits(segmenter, scene, monkeypatch):
    features, known, masks, _ = scene
    told = []
    plain = passes.prompted

    def watched(segmenter, features, where, labels, logits=None):
        told.append((labels.tolist(), logits))
        return plain(segmenter, features, where, labels, logits)

    monkeypatch.setattr(passes, "prompted", watched)
    found = passes.led(segmenter, features, known, masks)
    assert [labels[0][:2] for labels, _ in told] == [[1, 0]] * 3
    assert [len(labels[0]) for labels, _ in told] == [2, 2, 4]
    assert told[0][1] is None and told[1][1] is not None
    told.clear()
    without = passes.led(segmenter, features, known, None, passes=1)
    raised = passes.led(segmenter, features, known, masks, passes=1)
    inside = torch.nn.functional.interpolate(masks, size=raised.logits.shape[-2:]) > 0.5
    assert found.logits.shape == without.logits.shape == (2, 1, 32, 32)
    assert raised.logits[inside].mean() > without.logits[inside].mean() and BIAS > 0


def test_the_positive_point_lies_where_the_structure_is_expected(segmenter, scene, monkeypatch):
    features, known, masks, _ = scene
    seen = []
    plain = passes.prompted
    monkeypatch.setattr(passes, "prompted", lambda s, f, where, *more: seen.append(where) or plain(s, f, where, *more))
    passes.led(segmenter, features, known, masks, passes=1)
    for k in range(2):
        x, y = seen[0][k, 0].long().tolist()
        assert masks[k, 0, y, x] == 1


def test_both_forms_change_the_top_level_alone(segmenter, scene):
    features, known, masks, there = scene
    likeness = similarity(known, features.levels[-1])
    for form in (None, (there.levels[-1], masks)):
        other = passes.changed(features, likeness, masks, form)
        assert all(torch.equal(a, b) for a, b in zip(other.levels[:-1], features.levels[:-1], strict=True))
        assert not torch.allclose(other.levels[-1], features.levels[-1])
