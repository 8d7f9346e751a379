"""The private folder through which arrays travel to the worker and back, and writing them without a stall."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PREFIX = "rauslicer-"
STEP = 4 << 20  # bytes copied in one turn of the event loop
ABANDONED = 86400.0  # seconds after which a folder without a living owner goes


def private_folder(base: str = "") -> Path:
    """A new folder that only this user can enter. Folders that a crash left behind go at the same time."""
    parent = base or tempfile.gettempdir()
    remove_abandoned(Path(parent))
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))


def remove_folder(folder: Path | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path) -> None:
    """Our folders whose process is gone (where that cannot be asked: that are a day old)."""
    for folder in parent.glob(PREFIX + "*-*"):
        with contextlib.suppress(OSError, ValueError):
            status = folder.lstat()
            if sys.platform == "win32":
                gone = time.time() - status.st_mtime > ABANDONED
            else:
                owner = int(folder.name.removeprefix(PREFIX).split("-")[0])
                gone = status.st_uid == os.getuid() and not folder.is_symlink() and not alive(owner)
            if gone:
                shutil.rmtree(folder, ignore_errors=True)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[slice]:
    """Runs of slices of about STEP bytes."""
    per_slice = max(1, int(np.prod(shape[1:])) * itemsize)
    step = max(1, STEP // per_slice)
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def new_array(path: Path, dtype: np.dtype | type, shape: tuple[int, ...]) -> np.memmap:
    """A file of zeros, readable by its owner alone."""
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def write_array(path: Path, array: np.ndarray) -> Iterator[None]:
    """Copy an array into a file, some slices a step."""
    written = new_array(path, array.dtype.newbyteorder("="), array.shape)
    for part in slabs(array.shape, array.dtype.itemsize):
        written[part] = array[part]
        yield
    del written
