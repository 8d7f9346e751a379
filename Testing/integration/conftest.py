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
