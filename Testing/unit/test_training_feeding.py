"""Batches and random anatomies made by other processes are those that one process makes."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.errors import InputError  # noqa: E402
from rau.training import segmenter  # noqa: E402
from rau.training.data import Anatomies, Layout, Mixture, drawn_pool  # noqa: E402
from rau.training.feeding import batches  # noqa: E402
from rau.training.segmenter import Run, SegmenterTraining  # noqa: E402
from rau.training.sets import Mixtures  # noqa: E402

SMALL = {"image_size": 64, "frames": 4, "anatomies": 3, "ramp": 2, "steps": 3, "every": 3, "warmup": 1}


@pytest.fixture(scope="module")
def sources():
    alone = Mixture((("anatomies", 1.0, Anatomies(0, 3)),))
    return Mixtures(alone, alone, alone, alone)


def test_steps_come_in_turn_whoever_makes_them():
    assert list(islice(batches(lambda step: step**2, 3), 4)) == [9, 16, 25, 36]
    assert list(islice(batches(lambda step: step**2, 3, workers=2), 4)) == [9, 16, 25, 36]


def test_workers_make_the_batches_that_the_run_would_make_itself(tmp_path, sources):
    alone, helped = (Run(SegmenterTraining(str(tmp_path / str(n)), **SMALL, workers=n)) for n in (0, 2))
    own = islice(batches(lambda step: alone.drawn(sources, step), 0), 3)
    made = islice(batches(lambda step: helped.drawn(sources, step), 0, workers=2), 3)
    for one, other in zip(own, made, strict=True):
        other = other.to("cpu")
        assert torch.equal(one.masks, other.masks) and torch.equal(one.of, other.of)
        assert torch.allclose(one.images, other.images, atol=1e-3) and one.layout == other.layout


def test_a_packed_batch_is_smaller_and_unpacks_to_the_same_masks(tmp_path, sources):
    batch = Run(SegmenterTraining(str(tmp_path), **SMALL)).batch(sources.hard, 0)
    packed = batch.packed()
    assert packed.images.nbytes * 2 == batch.images.nbytes and packed.masks.nbytes * 4 == batch.masks.nbytes
    assert torch.equal(packed.to("cpu").masks, batch.masks)
    assert packed.to("cpu").images.dtype == torch.float32


@pytest.mark.parametrize("workers, methods", [(-1, ["fork"]), (2, ["spawn"])])
def test_workers_that_cannot_be_are_refused(tmp_path, monkeypatch, workers, methods):
    monkeypatch.setattr(torch.multiprocessing, "get_all_start_methods", lambda: methods)
    with pytest.raises(InputError, match="workers"):
        Run(SegmenterTraining(str(tmp_path), **SMALL, workers=workers))


def test_any_number_of_workers_draws_the_same_pool():
    two, three = (drawn_pool(5, 4, workers=n) for n in (2, 3))
    assert two.dtype == three.dtype and np.array_equal(two["labels"], three["labels"])
    assert len({one.tobytes() for one in two["labels"]}) == 4


def test_runs_that_share_a_cache_leave_one_whole_pool(tmp_path):
    first, second = Anatomies(1, 2, tmp_path), Anatomies(1, 2, tmp_path)
    assert np.array_equal(first.pool["labels"], second.pool["labels"])
    assert [path.name for path in tmp_path.iterdir()] == [next(tmp_path.glob("*-1-2.npy")).name]
    assert Anatomies(1, 2, tmp_path, workers=2).draw(np.random.default_rng(0), Layout(1, 0)).labels.shape[0] == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_with_workers_trains_validates_and_resumes(tmp_path, sources, monkeypatch):
    monkeypatch.setattr(segmenter, "sources_of", lambda settings: sources)
    monkeypatch.setattr(segmenter, "score", lambda run, validation: {"step": run.step, "mean": 0.5})
    settings = SegmenterTraining(str(tmp_path), **SMALL, workers=2)
    assert [row["step"] for row in segmenter.train(settings)] == [3]
    assert [row["step"] for row in segmenter.train(replace(settings, steps=6))] == [6]
