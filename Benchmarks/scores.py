"""What the baselines reach on a pair, and a file that keeps it from one run to the next."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rau.errors import InputError
from rau.evaluation.baselines import Baseline
from rau.evaluation.datasets import Case
from rau.evaluation.metrics import dice_of_structures, mean_of
from rau.evaluation.pairs import Pair
from rau.references.reference import Reference
from rau.volume.volume import LabelMap, Volume

FORMAT = 1


@dataclass(frozen=True)
class Score:
    """dice: mean over structures; None where nothing was to be found or drawn, or the baseline failed (error: why).

    seconds: for the baseline alone. cached: whether both come from an earlier run.
    """

    dice: float | None = None
    seconds: float = 0.0
    error: str = ""
    cached: bool = False


class Kept:
    """Scores by content of the pair's files and version of the baseline, in a JSON file; without a path in memory.

    Raises InputError when the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, self._scores = path, {}
        if path is None or not path.exists():
            return
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["format"] == FORMAT:
                self._scores = {str(key): _score(one) for key, one in told["scores"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path.name} holds no scores of baselines", "Remove it, or name another file with --baselines"
            ) from None

    def get(self, pair: str, baseline: Baseline) -> Score | None:
        """pair: see `content_of`."""
        found = self._scores.get(_key(pair, baseline))
        return None if found is None else replace(found, cached=True)

    def put(self, pair: str, baseline: Baseline, score: Score) -> None:
        """Keep it, on the disk too. Failures are not kept: they are tried again."""
        if score.error:
            return
        self._scores[_key(pair, baseline)] = score
        if self._path is not None:
            told = {key: {"dice": one.dice, "seconds": one.seconds} for key, one in sorted(self._scores.items())}
            write_whole(self._path, {"format": FORMAT, "scores": told})


def score_of(baseline: Baseline, reference: Reference, target: Volume, truth: LabelMap) -> Score:
    """Run the baseline. Whatever goes wrong is told in the score."""
    try:
        baseline.load()
        start = time.perf_counter()
        labels = baseline.method(reference, target)
        seconds = time.perf_counter() - start
        return Score(mean_of(dice_of_structures(truth, labels, reference.structures)), seconds)
    except Exception as problem:  # a baseline that fails is a finding, and the others still run
        return Score(error=f"{type(problem).__name__}: {' '.join(str(problem).split())[-200:]}")


def scores_of(
    pair: Pair, read: tuple[Reference, Volume, LabelMap], baselines: Iterable[Baseline], kept: Kept
) -> dict[str, Score]:
    """The score of each baseline that takes such images, by its name; what is kept is not computed again."""
    chosen = [one for one in baselines if one.takes(read[1])]
    content = content_of(pair) if chosen else ""
    scores = {}
    for one in chosen:
        found = kept.get(content, one)
        if found is None:
            found = score_of(one, *read)
            kept.put(content, one, found)
        scores[one.name] = found
    return scores


def content_of(pair: Pair) -> str:
    """SHA-256 of the files of a pair and of how they are read."""
    image = pair.target.file(pair.image) if pair.image else pair.target.image_path
    digest = hashlib.sha256(repr([_read_as(one) for one in (pair.reference, pair.target)]).encode())
    for path in (pair.reference.image_path, pair.reference.labels_path, image, pair.target.labels_path):
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def write_whole(path: Path, figures: dict[str, Any]) -> None:
    """Write whole or not at all. Raises InputError when the place cannot be written."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path.name} cannot be written", "Choose another place") from None


def _read_as(case: Case) -> tuple[object, ...]:
    return sorted(case.names.items()), case.spacing_known


def _key(pair: str, baseline: Baseline) -> str:
    return f"{pair} {baseline.version}"


def _score(told: dict[str, Any]) -> Score:
    return Score(None if told["dice"] is None else float(told["dice"]), float(told["seconds"]))
