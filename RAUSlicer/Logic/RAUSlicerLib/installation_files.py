"""Files of the set-up: its mark, what its helpers tell, and deleting a large folder without a stall."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

FILES_A_STEP = 50


def last_json(output: bytes) -> dict[str, Any]:
    """The object on the last line; empty when there is none."""
    for line in reversed(output.decode("utf-8", "replace").splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_mark(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all. Raises OSError."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(part, path)


def deletion(places: list[Path]) -> Iterator[None]:
    """Delete folders, some files a step. Raises Problem when something cannot be deleted."""
    count = 0
    for place in places:
        for folder, folders, files in os.walk(place, topdown=False):
            for name in files:
                remove_file(Path(folder, name))
                count += 1
                if count % FILES_A_STEP == 0:
                    yield
            for name in folders:
                path = Path(folder, name)
                remove_file(path) if path.is_symlink() else path.rmdir()
        shutil.rmtree(place, ignore_errors=True)
    yield


def remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        raise Problem(
            _("A file of the environment cannot be deleted: {name}").format(name=path.name),
            _("Release the model process, close other programs that use it, then press Remove again"),
            "PermissionError",
        ) from None
