"""Descriptors of the bank's slices, kept by encoder: made once, when first needed, and again when the encoder changes.

In each entry `descriptors/<encoder>-<axis>.safetensors` holds (N, D) unit vectors of all its slices across one
canonical axis; `.cache/` of the bank holds the means of all entries, (M, D), so that a search reads one file. Both are
caches: what is missing or damaged is made again, and what cannot be written is made again next time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rau.bank.entry import ID, Entry
from rau.bank.files import plain_file
from rau.errors import InputError
from rau.export.writing import replaced
from rau.references.reference import Reference
from rau.volume.orientation import canonical
from rau.volume.planes import Planes
from rau.volume.window import to_uint8

if TYPE_CHECKING:
    from rau.bank.bank import Bank, Tell
    from rau.models.engine import Engine
    from rau.volume.volume import Volume

FOLDER, CACHE = "descriptors", ".cache"
VECTORS, HASH, IDS = "vectors", "sha256", "ids"
_DIGITS = 16  # of the encoder's hash in a file name


def encoder_key(engine: Engine) -> str:
    """SHA-256 of the encoder's weights, of which a file name keeps the beginning; "" when the model has no encoder."""
    part = engine.folder.manifest.encoder
    return "" if engine.encoder is None or part is None else engine.folder.manifest.files[part.file]


def volume_descriptors(engine: Engine, volume: Volume, axis: int) -> np.ndarray:
    """(N, D) float32 unit vectors of all slices across the canonical `axis`, windowed as by default."""
    from rau.preparation import describe

    pixels, geometry, _ = canonical(to_uint8(volume), volume.geometry)
    return describe(engine, Planes(pixels, axis, geometry.spacing))


def slice_descriptors(bank: Bank, entry: Entry, engine: Engine, axis: int) -> np.ndarray:
    """(N, D) of the entry's slices across the canonical `axis`; from its folder, else made and kept there. Raises
    InputError when the entry is damaged."""
    kept = _read(_path(bank, entry.id, engine, axis))
    return kept[0] if kept is not None else add_descriptors(bank, entry, engine, axis, bank.reference(entry.id))


def add_descriptors(bank: Bank, entry: Entry, engine: Engine, axis: int, reference: Reference) -> np.ndarray:
    """As `slice_descriptors`, where the reference is at hand (just added)."""
    vectors = volume_descriptors(engine, reference.image, axis)
    keep(bank, entry.id, engine, axis, vectors)
    return vectors


def keep(bank: Bank, entry_id: str, engine: Engine, axis: int, vectors: np.ndarray) -> None:
    """Keep (N, D) descriptors of an entry's slices in its folder."""
    _write(_path(bank, entry_id, engine, axis), vectors, [entry_id])


def means(
    bank: Bank, entries: Sequence[Entry], engine: Engine, axis: int, tell: Tell
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of `entries` could be described, (M,) places in it; their rows (M,) in (N, D), the means over the slices of
    all that the bank has kept, of unit length."""
    cache = bank.root / CACHE / f"{encoder_key(engine)[:_DIGITS]}-{axis}.safetensors"
    kept = _kept_means(bank, cache)
    new: dict[str, np.ndarray] = {}
    for entry in entries:
        if entry.id not in kept.places:
            try:
                new[entry.id] = mean_of(slice_descriptors(bank, entry, engine, axis))
            except InputError as problem:
                tell(f"{problem.message}: passed over")
    if new:
        here = [number for entry_id, number in kept.places.items() if (bank.root / entry_id).is_dir()]
        ids = list(kept.places)
        vectors = np.stack([*kept.vectors[here], *new.values()])
        ids = [*(ids[number] for number in here), *new]
        _write(cache, vectors, ids)
        kept = Means(None, vectors, {entry_id: number for number, entry_id in enumerate(ids)})
    rows = np.array([kept.places.get(entry.id, -1) for entry in entries], int)
    usable = np.flatnonzero(rows >= 0)
    return usable, rows[usable], kept.vectors


@dataclass(frozen=True)
class Means:
    """What a file of means held. stamp: what changes with it; None: it was not read. vectors: (N, D); places: by id."""

    stamp: tuple[int, int, int] | None
    vectors: np.ndarray
    places: dict[str, int]


def _kept_means(bank: Bank, cache: Path) -> Means:
    """The bank's means, read again only where their file is another one: it is written beside and renamed."""
    stamp = None
    with suppress(OSError):
        told = os.stat(cache)
        stamp = (told.st_ino, told.st_mtime_ns, told.st_size)
    known = bank.means.get(cache.name)
    if known is None or stamp is None or known.stamp != stamp:
        kept = _read(cache)
        vectors, ids = kept if kept is not None else (np.zeros((0, 1), np.float32), [])
        known = Means(stamp, vectors, {entry_id: number for number, entry_id in enumerate(ids)})
        bank.means[cache.name] = known
    return known


def mean_of(vectors: np.ndarray) -> np.ndarray:
    """(N, D) unit vectors to their mean direction (D,)."""
    mean = vectors.mean(0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length if length > 0 else mean, dtype=np.float32)


def damaged(path: Path) -> bool:
    """Whether a file of descriptors is not what was written."""
    return _read(path) is None


def _path(bank: Bank, entry_id: str, engine: Engine, axis: int) -> Path:
    return bank.root / entry_id / FOLDER / f"{encoder_key(engine)[:_DIGITS]}-{axis}.safetensors"


def _read(path: Path) -> tuple[np.ndarray, list[str]] | None:
    """Vectors (n, D) and the ids they are of; None when missing, damaged or a link."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(plain_file(path), framework="numpy") as file:
            told, vectors = file.metadata() or {}, file.get_tensor(VECTORS)
    except (InputError, OSError, SafetensorError, ValueError):
        return None
    ids = told.get(IDS, "").split()
    right = vectors.ndim == 2 and vectors.dtype == np.float32 and _hash(vectors, ids) == told.get(HASH)
    return (vectors, ids) if right and ids and all(re.match(ID, one) for one in ids) else None


def _write(path: Path, vectors: np.ndarray, ids: list[str]) -> None:
    from safetensors.numpy import save_file

    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    told = {HASH: _hash(vectors, ids), IDS: " ".join(ids)}
    with suppress(InputError, OSError):  # a cache: a bank that is read only is searched all the same
        if path.parent.is_symlink():
            return
        path.parent.mkdir(exist_ok=True)
        with replaced(path) as temporary:
            save_file({VECTORS: vectors}, temporary, told)


def _hash(vectors: np.ndarray, ids: list[str]) -> str:
    from rau.models.engine import content_hash

    return content_hash(vectors, tuple(ids))
