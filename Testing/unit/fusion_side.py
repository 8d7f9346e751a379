"""A tiny VLM and a tiny SAM2 for tests of what is trained between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from vlm_side import TINY

from rau.models.store import write_model
from rau.sam.build import build_sam2, mini_overrides
from rau.training import fusion as stage
from rau.training import fusion_objective as objective
from rau.training.batch import Batch, make_batch
from rau.training.data import Mixture
from rau.training.items import Item, draw
from rau.vlm.store import new_reasoner, save_reasoner

SIZE = 64  # of SAM2; the VLM's pictures are of another size


def write_models(folder: Path) -> Path:
    """`sft`, a run folder with a reasoner, and `tiny`, a model folder; both with random weights."""
    save_reasoner(folder / "sft" / "reasoner", new_reasoner(0, TINY))
    torch.manual_seed(0)
    overrides = mini_overrides(SIZE, 32, 16, (1, 1, 3, 1))
    part = {"config": "sam2.1_hiera_t", "overrides": overrides, "image_size": SIZE}
    manifest = {"name": "tiny", "version": "0", "licence": "none", "segmenter": part}
    weights = build_sam2(part["config"], overrides).state_dict()
    write_model(folder / "tiny", manifest, {"segmenter.safetensors": weights}, half=False)
    return folder


def settings_of(models: Path, folder: Path, **more) -> stage.FusionTraining:
    """A training of two steps."""
    kept = {"steps": 2, "dialogues": 2, "structures": 3, "every": 2, "checks": 1, "warmup": 1, **more}
    return stage.FusionTraining(str(folder), str(models / "sft"), str(models / "tiny"), **kept)


def drawn(anatomies: Mixture, seed: int = 0) -> tuple[Batch, list[Item]]:
    """Some structures in several dialogues."""
    batch = make_batch(anatomies, (seed,), objective.ONE_REFERENCE, 3, 4, SIZE)
    items = draw(batch, "segment", np.random.default_rng(seed))
    assert len(batch.of) > 4 and len(items) > 1
    return batch, items
