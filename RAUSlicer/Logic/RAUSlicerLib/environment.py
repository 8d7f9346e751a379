"""Which Python runs the worker, and with what environment."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

LOGIC_FOLDER = Path(__file__).resolve().parent.parent
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONNOUSERSITE", "ITK_AUTOLOAD_PATH", "SSLKEYLOGFILE")
WITHIN = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
MARK = "environment.json"  # in the folder of an environment that the set-up has finished


@dataclass(frozen=True)
class Launch:
    """program, arguments, environment: what starts the worker."""

    program: str
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


def find_python(chosen: str, environ: Mapping[str, str], logic: Path = LOGIC_FOLDER) -> str:
    """The setting; else RAU_PYTHON; else what "Set up" made; else a virtual environment beside the extension.

    Raises Problem.
    """
    if chosen.strip():
        return _usable(chosen.strip(), _("The Python under Advanced"))
    if environ.get("RAU_PYTHON", "").strip():
        return _usable(environ["RAU_PYTHON"].strip(), _("The Python that RAU_PYTHON names"))
    made = made_environment(root_folder(environ))
    if made is not None:
        return str(made["program"])
    for folder in (logic.parent, logic.parent.parent, Path.home() / ".rauslicer"):
        candidate = folder.joinpath(".venv", *WITHIN)
        if candidate.is_file():
            return str(candidate)
    raise Problem(
        _("No Python with the RAUSlicer engine was found"),
        _("Press Set up under Environment, or choose a Python that has it under Advanced"),
        "EnvironmentError",
    )


def root_folder(environ: Mapping[str, str]) -> Path:
    """Where "Set up" makes the environment: RAU_ENVIRONMENT, else `rauslicer/environment` in the user's data folder."""
    if environ.get("RAU_ENVIRONMENT"):
        return Path(environ["RAU_ENVIRONMENT"])
    base = environ.get("XDG_DATA_HOME") or environ.get("LOCALAPPDATA") or str(Path.home() / ".local" / "share")
    return Path(base) / "rauslicer" / "environment"


def made_environment(root: Path) -> dict[str, Any] | None:
    """What the set-up noted of the environment in that folder; None while there is no whole one.

    program; variables that it needs beside those of every worker; build; device; versions; pins: a digest.
    """
    try:
        mark = json.loads((root / MARK).read_text(encoding="utf-8"))
        whole = Path(mark["program"]).is_file() and isinstance(mark["variables"], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(mark) if whole else None


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
    made = made_environment(root_folder(base))
    if made is not None and program == made["program"]:
        environment.update(made["variables"])
    return Launch(program, ("-m", "rau.worker"), tuple(sorted(environment.items())))
