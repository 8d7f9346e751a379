"""Rows in groups: all of them, in order, in smaller groups where memory does not suffice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from rau.models.presets import preset  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.sam.groups import bytes_of_row, free_bytes, in_groups, rows_that_fit  # noqa: E402
from rau.sam.segmenter import Segmenter  # noqa: E402


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 60))
def test_every_row_is_done_once_in_order_and_never_more_than_fit(count, most, capacity):
    tried = []

    def run(start: int, stop: int) -> int:
        tried.append(stop - start)
        if stop - start > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stop - start

    done, fitted = in_groups(count, most, run)
    assert [row for rows, _ in done for row in rows] == list(range(count))
    assert all(len(rows) == size <= min(most, capacity) for rows, size in done)
    assert fitted <= most and (fitted == most or fitted <= capacity)
    assert len([size for size in tried if size > capacity]) <= 6, "a group that failed is not tried again as large"


def test_one_row_that_does_not_fit_and_other_errors_are_raised():
    def short(start: int, stop: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(start: int, stop: int) -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(torch.OutOfMemoryError):
        in_groups(5, 5, short)
    with pytest.raises(RuntimeError, match="shapes differ"):
        in_groups(5, 5, broken)


def test_more_pixels_slices_and_memory_take_more_and_a_group_has_at_least_one_row():
    base = bytes_of_row(512, 256, 64, 2, False)
    assert bytes_of_row(1024, 256, 64, 2, False) > 3 * base
    assert bytes_of_row(512, 256, 64, 7, False) > base < bytes_of_row(512, 256, 64, 2, True)
    assert free_bytes(torch.device("cpu")) > 1_000_000
    assert rows_that_fit(torch.device("cpu"), 10**15) == 1 < rows_that_fit(torch.device("cpu"), 1000)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    mini = preset("rau-mini")
    model = build_sam2(mini.sam_config, {**mini.sam_overrides, "image_size": 64}).eval()
    return Segmenter(model.requires_grad_(False))


def test_when_memory_runs_out_the_masks_are_the_same_and_the_size_that_fits_is_kept(segmenter, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = segmenter.encode(torch.randn(1, 3, 64, 64, generator=generator)).expand(7)
    memory = segmenter.remember(features, (torch.rand(7, 1, 64, 64, generator=generator) > 0.5).float())
    prompts = torch.rand(7, 1, 64, 64, generator=generator)
    boxes = torch.tensor([[4.0, 4, 40, 40], [float("nan")] * 4] * 3 + [[0.0, 0, 8, 8]])
    given_ = {"prompts": prompts, "boxes": boxes, "remember": True}
    whole = segmenter.decode(features, [memory], [memory], **given_)
    together = segmenter._together

    def short(features, past, guidance):
        if len(features) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return together(features, past, guidance)

    monkeypatch.setattr(segmenter, "_together", short)
    monkeypatch.setattr(segmenter, "rows_at_once", 0)
    parts = segmenter.decode(features, [memory], [memory], **given_)
    assert segmenter.rows_at_once == 3
    assert torch.allclose(whole.logits, parts.logits, atol=1e-4)
    assert torch.allclose(whole.presence, parts.presence, atol=1e-4) and torch.allclose(whole.iou, parts.iou, atol=1e-4)
    assert torch.allclose(whole.memory.spatial, parts.memory.spatial, atol=1e-3)


def test_memories_of_a_reference_are_kept_within_bounds_and_made_again_alike(segmenter, monkeypatch):
    import numpy as np

    from rau.references import encoded
    from rau.volume.planes import Planes

    rng = np.random.default_rng(0)
    images = Planes(rng.integers(0, 256, (6, 20, 20), dtype=np.uint8), 0, (1.0, 1.0, 1.0))
    labels = Planes((rng.random((6, 20, 20)) > 0.5).astype(np.uint16) * 3, 0, (1.0, 1.0, 1.0))
    one = encoded.EncodedReference(images, labels, (3,), np.ones((6, 1), np.float32))
    first, _ = one.memory(segmenter, 0)
    assert one.memory(segmenter, 0)[0] is first, "encoded once"
    monkeypatch.setattr(encoded, "MOST_BYTES", 3 * first.nbytes)
    for index in range(6):
        one.memory(segmenter, index)
        assert sum(memory.nbytes for memory, _ in one._memories.values()) <= 3 * first.nbytes
    again, _ = one.memory(segmenter, 0)
    assert again is not first and torch.equal(again.spatial, first.spatial)
    one.forget()
    assert one.memory(segmenter, 0)[0] is not again
