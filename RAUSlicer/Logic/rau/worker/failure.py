"""What any exception means to the user: one line, a hint, an exit status; a trace without user data when unexpected."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import PurePath

from rau.errors import RauError, disk_full, out_of_memory

UNEXPECTED = 1  # exit status of an error that is ours


@dataclass(frozen=True)
class Failure:
    kind: str
    message: str
    hint: str
    exit_code: int
    trace: str = ""

    @property
    def line(self) -> str:
        """Message and hint on one line."""
        return f"{self.message}. {self.hint}" if self.hint else self.message


def failure_of(error: BaseException) -> Failure:
    """Any exception as a Failure."""
    if isinstance(error, RauError):
        return Failure(error.kind, error.message, error.hint, error.exit_code)
    if out_of_memory(error):
        hint = "Close other programs, choose the device cpu or the acquisition plane only, or a smaller image"
        return Failure("OutOfMemory", "The memory of this computer or its GPU does not suffice for this image", hint, 2)
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("rau"):
        package = error.name.partition(".")[0]
        return Failure("MissingPackage", f"The Python package {package} is not installed", "Install RAUSlicer again", 4)
    if disk_full(error):
        return Failure("DiskFull", "The disk is full", "Free some space in the folder for temporary files", 2)
    message = f"Something unexpected went wrong inside RAUSlicer ({type(error).__name__}{_place(error)})"
    return Failure("InternalError", message, "Please report it with what you did", UNEXPECTED, trace_of(error))


def trace_of(error: BaseException) -> str:
    """Frames as "rau/pipeline.py:62 segment", outermost first, and the type: neither folders of the user nor values."""
    frames = [f"{_shortened(f.filename)}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    return "\n".join([*frames, type(error).__name__])


def _place(error: BaseException) -> str:
    ours = [f for f in traceback.extract_tb(error.__traceback__) if _shortened(f.filename).startswith("rau/")]
    return f" at {_shortened(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""


def _shortened(filename: str) -> str:
    """The path within its package: what lies above `rau` or `site-packages` tells of the user's folders."""
    parts = PurePath(filename).parts
    for mark, skip in (("site-packages", 1), ("rau", 0)):
        if mark in parts:
            last = len(parts) - 1 - parts[::-1].index(mark)
            return "/".join(parts[last + skip :])
    return parts[-1] if parts else "?"
