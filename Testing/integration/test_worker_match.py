"""How much references look like a target, over the real process: those of the message and those of a bank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration.worker_side import WorkerProcess, image_message

from rau.bank.bank import Bank
from rau.training.patient import patient_pair
from rau.volume.volume import Geometry, Volume
from rau.worker.matching import plane_of

pytest.importorskip("sam2")
SHAPE = (16, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def service(environment: dict[str, str], folder: Path) -> Iterator[WorkerProcess]:
    started = WorkerProcess(environment)
    started.send(op="hello", protocol=1, folder=str(folder))
    started.until("ready")
    yield started
    assert started.end() == 0


def ask(service: WorkerProcess, **message: Any) -> dict[str, Any]:
    service.send(op="match", job=1, **message)
    return service.until("done", "error")[-1]


def noise(like: Volume) -> Volume:
    array = np.random.default_rng(0).normal(0, 300, like.array.shape).astype(np.int16)
    return replace(like, array=array)


def test_another_patient_matches_better_than_noise_and_a_picture_not_at_all(
    service: WorkerProcess, folder: Path, tmp_path: Path
) -> None:
    reference, (target, _truth) = patient_pair(3, SHAPE)
    flat = Volume(reference.image.array[:1], Geometry((1, *SHAPE[1:])), "CT")
    images = [reference.image, noise(reference.image), target, flat]
    messages = [image_message(folder, f"m{n}.npy", one) for n, one in enumerate(images)]
    bank = Bank.create(tmp_path / "bank")
    entry = bank.add(reference, title="Upper abdomen")
    told = ask(service, target=image_message(folder, "t.npy", target), references=messages, bank=str(tmp_path / "bank"))
    assert told["event"] == "done", told
    other, random, itself, picture = told["report"]["references"]
    assert random < other < itself and itself > 0.99 and picture is None
    (row,) = told["report"]["bank"]
    assert (row["id"], row["doubts"]) == (entry.id, []) and row["similarity"] == pytest.approx(other, abs=0.01)


def test_a_bank_that_is_none_is_told(service: WorkerProcess, folder: Path, tmp_path: Path) -> None:
    target = image_message(folder, "t.npy", patient_pair(3, SHAPE)[1][0])
    told = ask(service, target=target, bank=str(tmp_path / "nowhere"))
    assert told["event"] == "error" and told["kind"] == "InputError" and "nowhere" in told["message"]


def test_planes_have_their_names() -> None:
    turn = np.deg2rad(30)
    tilted = np.array([[0, 0, 1], [np.sin(turn), np.cos(turn), 0], [np.cos(turn), -np.sin(turn), 0]])
    thick = (5.0, 1.0, 1.0)
    axes = {"axial": [2, 1, 0], "coronal": [1, 2, 0], "sagittal": [0, 2, 1]}  # world axis of slice, row, column
    for name, order in axes.items():
        direction = np.eye(3)[:, order]
        assert plane_of(Geometry((20, 64, 64), thick, (0, 0, 0), direction)) == name
        assert plane_of(Geometry((20, 64, 64), thick, (0, 0, 0), -direction)) == name
    assert plane_of(Geometry((20, 64, 64), thick, (0, 0, 0), tilted)) == "oblique"
