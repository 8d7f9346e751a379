"""What the integration tests share: a small model with random weights, small patients, the worker's other side."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.worker_side import WorkerProcess

from rau.references.reference import Reference
from rau.training.patient import patient_pair
from rau.volume.volume import LabelMap, Volume

LOGIC = Path(__file__).resolve().parents[2] / "RAUSlicer" / "Logic"


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """A model folder of the rau-mini architecture at 64 pixels with random weights that find something everywhere."""
    torch = pytest.importorskip("torch")
    from rau.models import store
    from rau.models.presets import preset
    from rau.references.encoder import build_encoder
    from rau.sam.build import build_sam2

    torch.manual_seed(0)
    mini = preset("rau-mini")
    sam, encoder = build_sam2(mini.sam_config, mini.sam_overrides), build_encoder(mini.encoder)
    sam.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(3.0)
    manifest = {
        "name": "random",
        "version": "0",
        "licence": "Apache-2.0",
        "segmenter": {"config": mini.sam_config, "overrides": mini.sam_overrides, "image_size": 64},
        "encoder": {"config": mini.encoder, "image_size": mini.encoder_size},
    }
    folder = tmp_path_factory.mktemp("models") / "random"
    weights = {"segmenter.safetensors": sam.state_dict(), "encoder.safetensors": encoder.state_dict()}
    store.write_model(folder, manifest, weights)
    return folder


@pytest.fixture(scope="session")
def pair() -> tuple[Reference, tuple[Volume, LabelMap]]:
    """A small reference and a target with its truth."""
    return patient_pair(2, (10, 48, 48))


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """What a `python -m rau...` process needs."""
    return {**os.environ, "PYTHONPATH": str(LOGIC), "PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def worker(environment) -> Iterator[WorkerProcess]:
    started = WorkerProcess(environment)
    yield started
    if started.process.poll() is None:
        started.process.kill()
    started.process.wait()
