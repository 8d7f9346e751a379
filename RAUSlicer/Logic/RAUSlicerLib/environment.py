"""Which Python runs the worker, and with what environment."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

LOGIC_FOLDER = Path(__file__).resolve().parent.parent
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONNOUSERSITE", "ITK_AUTOLOAD_PATH", "SSLKEYLOGFILE")
WITHIN = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")


@dataclass(frozen=True)
class Launch:
    """program, arguments, environment: what starts the worker."""

    program: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def find_python(chosen: str, environ: Mapping[str, str], logic: Path = LOGIC_FOLDER) -> str:
    """The setting; else RAU_PYTHON; else a virtual environment beside the extension. Raises Problem."""
    if chosen.strip():
        return _usable(chosen.strip(), _("The Python under Advanced"))
    if environ.get("RAU_PYTHON", "").strip():
        return _usable(environ["RAU_PYTHON"].strip(), _("The Python that RAU_PYTHON names"))
    for folder in (logic.parent, logic.parent.parent, Path.home() / ".rauslicer"):
        candidate = folder.joinpath(".venv", *WITHIN)
        if candidate.is_file():
            return str(candidate)
    raise Problem(
        _("No Python with the RAUSlicer engine was found"),
        _("Make a virtual environment with it and choose its python under Advanced"),
        "EnvironmentError",
    )


def _usable(path: str, what: str) -> str:
    """A file, a folder of a virtual environment, or a command on the PATH."""
    place = Path(path).expanduser()
    if place.is_dir() and place.joinpath(*WITHIN).is_file():
        place = place.joinpath(*WITHIN)
    if place.is_file() and os.access(place, os.X_OK):
        return str(place)
    found = shutil.which(path) if place.name == path else None
    if found:
        return found
    raise Problem(
        what + " " + _("is not there or cannot be run"), _("Choose another under Advanced"), "EnvironmentError"
    )


def worker_environment(base: Mapping[str, str], logic: Path = LOGIC_FOLDER) -> dict[str, str]:
    """`base` (Slicer's start-up environment) without what points at another Python, with the engine on the path."""
    kept = {name: value for name, value in base.items() if name not in FOREIGN}
    kept.update(
        PYTHONPATH=str(logic),
        PYTHONNOUSERSITE="1",
        PYTHONUNBUFFERED="1",
        PYTHONIOENCODING="utf-8",
        PYTHONDONTWRITEBYTECODE="1",
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
    )
    return kept


def launch(chosen: str, base: Mapping[str, str], logic: Path = LOGIC_FOLDER) -> Launch:
    """How to start the worker. Raises Problem when there is no Python for it."""
    program = find_python(chosen, base, logic)
    environment = worker_environment(base, logic)
    return Launch(program, ("-m", "rau.worker"), tuple(sorted(environment.items())))
