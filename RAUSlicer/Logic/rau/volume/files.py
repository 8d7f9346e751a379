"""What a path is before anything reads it: one-line errors that carry the name of a file, never its folder."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rau.errors import InputError

ITK_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
KNOWN = "NIfTI (.nii, .nii.gz), NRRD, .seg.nrrd, MetaImage (.mha, .mhd), DICOM, PNG, JPEG and TIFF"

_stderr_lock = threading.Lock()


def ending_of(path: str | os.PathLike[str]) -> str:
    """The lower-case ending that decides on the format: ".nii.gz" and ".seg.nrrd" count as one ending."""
    name = Path(path).name.lower()
    for double in (".nii.gz", ".seg.nrrd", ".seg.nhdr"):
        if name.endswith(double):
            return double
    return Path(name).suffix


def stem_of(path: str | os.PathLike[str]) -> str:
    """The file name without the ending of `ending_of`."""
    name = Path(path).name
    ending = ending_of(path)
    return name[: -len(ending)] if ending else name


def checked(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path to an existing, readable file or folder. Raises InputError with its name only."""
    try:
        found = Path(path).expanduser()
        mode = os.stat(found).st_mode
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(*_why_not(path, error)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{found.name} is neither a file nor a folder")
    if not os.access(found, os.R_OK | (os.X_OK if stat.S_ISDIR(mode) else 0)):
        raise InputError(f"No permission to read {found.name}")
    if stat.S_ISREG(mode) and os.path.getsize(found) == 0:
        raise InputError(f"{found.name} is empty (0 bytes)", "Copy or export it again")
    return found


def _why_not(path: str | os.PathLike[str], error: Exception) -> tuple[str, str]:
    name = Path(os.fspath(path).replace("\0", "?")).name or os.fspath(path)
    code = getattr(error, "errno", None)
    if code == errno.ELOOP:
        return f"{name} is a symbolic link that leads back to itself", "Give the file itself"
    if code in (errno.EACCES, errno.EPERM):
        return f"No permission to read {name}", ""
    if code in (errno.ENOENT, errno.ENOTDIR):
        return f"There is no file or folder {name}", "Check the path"
    return f"{name} is not a path that can be read", "Check the path"


def is_dicom_file(path: Path) -> bool:
    """Whether the file carries DICOM's mark after the 128-byte preamble."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def kind_of(path: Path) -> str:
    """ "itk", "picture", "dicom" (a file) or "folder", by ending or DICOM's mark. Raises InputError when unknown."""
    if path.is_dir():
        return "folder"
    ending = ending_of(path)
    if ending.endswith(ITK_ENDINGS) or ending == ".seg.nhdr":
        return "itk"
    if ending in PICTURE_ENDINGS:
        return "picture"
    if ending in DICOM_ENDINGS or is_dicom_file(path):
        return "dicom"
    raise InputError(f"{path.name} has an ending that is not known", f"Readable are {KNOWN}")


_DETACHED = re.compile(rb"^\s*(?:data ?file\s*:|ElementDataFile\s*=)\s*(.*?)\s*$", re.IGNORECASE | re.MULTILINE)


def refuse_foreign_data_file(path: Path) -> None:
    """Refuse an NRRD or MetaImage header that points to voxels outside its own folder, or to a list of files."""
    if not ending_of(path).endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        return
    with open(path, "rb") as stream:
        header = stream.read(1 << 16)
    if header.startswith(b"NRRD"):
        header = re.split(rb"\r?\n\r?\n", header, maxsplit=1)[0]
    found = _DETACHED.search(header)
    if found is None or found[1].upper() == b"LOCAL":
        return
    name = found[1].decode("utf-8", "replace")
    if name.upper().startswith("LIST") or any(c in name for c in "/\\%\0 ") or name in ("", ".", ".."):
        raise InputError(
            f"{path.name} keeps its voxels in other files in a way that is not read",
            "Save it as one file (.nrrd, .mha)",
        )
    if not (path.parent / name).is_file():
        raise InputError(f"The voxels of {path.name} are missing: no file {name} beside it", "Keep both files together")


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what C and C++ libraries print straight to the process's stderr off the terminal."""
    with _stderr_lock:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, AttributeError, ValueError):
            yield
            return
        try:
            with tempfile.TemporaryFile() as sink:
                os.dup2(sink.fileno(), 2)
                yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
