"""The private folder through which arrays travel to the worker and back, and writing them without a stall."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

PREFIX = "rauslicer-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room: on the disk, for this user, in one file
STEP = 4 << 20  # bytes copied in one turn of the event loop
ABANDONED = 86400.0  # seconds after which a folder without a living owner goes


def private_folder(base: str = "") -> Path:
    """A new folder that only this user can enter. Folders that a crash left behind go at the same time.

    Raises Problem: there is no place for temporary files, or it cannot be written.
    """
    try:
        parent = base or tempfile.gettempdir()
        remove_abandoned(Path(parent))
        return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent))
    except OSError as error:
        raise unwritable(error) from error


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


def write_array(path: Path, array: np.ndarray) -> Iterator[None]:
    """Write an array into a new file that only its owner can read, some slices a step. Raises Problem: full disk,
    a folder that is gone or cannot be written.

    By plain writes: on a full disk a memory-mapped file ends the whole process.
    """
    dtype = array.dtype.newbyteorder("=")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    try:
        with open(
            os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600), "wb"
        ) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in slabs(array.shape, array.dtype.itemsize):
                file.write(np.ascontiguousarray(array[part], dtype).data)
                yield
    except FileExistsError:
        raise
    except OSError as error:
        raise unwritable(error) from error


def unwritable(error: OSError) -> Problem:
    """Why nothing can be written among the temporary files."""
    if error.errno in FULL:
        hint = _("Free some space in the folder for temporary files")
        return Problem(_("The disk is full"), hint, "DiskFull")
    hint = _("Look whether it is there and yours (its place is in the variable TMPDIR or TEMP), then run again")
    return Problem(_("The folder for temporary files cannot be written"), hint, "TemporaryFolder")
