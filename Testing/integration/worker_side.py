"""The other side of the worker, for tests: its messages with their arrays, and a real process to send them to."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from rau.references.reference import Reference
from rau.volume.volume import Volume


def image_message(folder: Path, name: str, volume: Volume) -> dict[str, Any]:
    """Write the array and describe the image, as the panel does."""
    np.save(folder / name, volume.array)
    grid = volume.geometry
    geometry = {
        "shape": grid.shape,
        "spacing": grid.spacing,
        "origin": grid.origin,
        "direction": grid.direction.tolist(),
    }
    return {"array": name, "geometry": geometry, "modality": volume.modality, "source": volume.source}


def job_message(folder: Path, job: int, reference: Reference, target: Volume, **settings: Any) -> dict[str, Any]:
    """A segment message with all its arrays written, under names of this job; the worker makes the result.

    An earlier job may still be reading its own files.
    """
    np.save(folder / f"labels-{job}.npy", reference.labels.array)
    structures = [
        {"value": s.value, "name": s.name, "color": s.color, "terminology": s.terminology} for s in reference.structures
    ]
    return {
        "op": "segment",
        "job": job,
        "target": image_message(folder, f"target-{job}.npy", target),
        "references": [
            {
                "image": image_message(folder, f"reference-{job}.npy", reference.image),
                "labels": {"array": f"labels-{job}.npy"},
                "structures": structures,
            }
        ],
        "settings": settings,
        "result": f"result-{job}.npy",
    }


class WorkerProcess:
    """The other side of a real worker process: send messages, wait for events."""

    def __init__(self, environment: dict[str, str], *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *(how or ("-m", "rau.worker"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.errors: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._log, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put({"event": "closed"})

    def _log(self) -> None:
        assert self.process.stderr
        self.errors.extend(self.process.stderr)

    def send(self, **message: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def until(self, *names: str, seconds: float = 90) -> list[dict[str, Any]]:
        """All events up to and with the first of those names."""
        seen = []
        while True:
            seen.append(self.events.get(timeout=seconds))
            if seen[-1]["event"] in names:
                return seen
            assert seen[-1]["event"] != "closed", (seen, self.errors)

    def end(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(30)
