"""The pinned requirements, and which of them each step of the set-up asks pip for."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from RAUSlicerLib.environment import LOGIC_FOLDER
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

REQUIREMENTS = LOGIC_FOLDER.parent / "Resources" / "requirements.txt"
TOOLS = ("pip", "setuptools", "wheel")
TORCH = ("torch", "torchvision")
OF_CUDA = ("nvidia-", "cuda-", "triton")  # what the CUDA build of PyTorch brings along


@dataclass(frozen=True)
class Pin:
    """One requirement with all its lines. name: normalised."""

    name: str
    text: str

    @property
    def version(self) -> str:
        found = re.search(r"==\s*([^\s;\\]+)", self.text)
        return found.group(1) if found else ""


@dataclass(frozen=True)
class Pins:
    every: tuple[Pin, ...]

    @property
    def hashed(self) -> bool:
        """Whether each has checksums: then pip takes nothing else, and the list is complete."""
        return bool(self.every) and all("--hash=" in one.text for one in self.every)

    def named(self, names: Collection[str]) -> tuple[Pin, ...]:
        return tuple(one for one in self.every if one.name in names)

    def torch(self) -> tuple[Pin, ...]:
        """PyTorch and what its CUDA build needs."""
        return tuple(one for one in self.every if one.name in TORCH or one.name.startswith(OF_CUDA))

    def rest(self) -> tuple[Pin, ...]:
        apart = {*TOOLS, "uv", *(one.name for one in self.torch())}
        return tuple(one for one in self.every if one.name not in apart)

    def count(self) -> int:
        return len({one.name for one in self.every})


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path) -> Pins:
    """Raises Problem: the file is not there or holds no requirement."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        text = ""
    found: list[Pin] = []
    for block in text.split("\n"):
        if found and block[:1].isspace() and block.strip():
            found[-1] = Pin(found[-1].name, found[-1].text + "\n" + block)
            continue
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", block)
        if name:
            found.append(Pin(normalised(name.group()), block))
    if not found:
        raise Problem(
            _("The list of packages {name} is not there or is empty").format(name=path.name),
            _("Install the extension again"),
            "EnvironmentError",
        )
    return Pins(tuple(found))


def as_text(pins: Sequence[Pin]) -> str:
    return "".join(one.text.rstrip().rstrip("\\").rstrip() + "\n" for one in pins)


# -- an offline folder
def wheel_folder(chosen: str) -> Path | None:
    """The folder of wheels that the user chose; None without one. Raises Problem: there are none in it."""
    if not chosen.strip():
        return None
    folder = Path(chosen.strip()).expanduser()
    if not folder.is_dir() or not any(folder.glob("*.whl")):
        raise Problem(
            _("There are no wheels in the folder {folder}").format(folder=folder),
            _("Choose the folder that holds the .whl files, or leave the field empty"),
        )
    return folder


def requirements_of(folder: Path | None) -> Path:
    """The list that comes with the wheels, where there is one; else that of the extension."""
    own = folder / "requirements.txt" if folder is not None else REQUIREMENTS
    return own if own.is_file() else REQUIREMENTS


def wheels_of_build(folder: Path, build: str, name: str, version: str) -> str:
    """The version of a package for that build in a folder, such as "2.14.1+cpu"; empty when it has none apart."""
    marks = {one.name.split("-")[1] for one in folder.glob(f"{name}-{version}+*.whl")}
    found = sorted(one for one in marks if one.partition("+")[2].startswith("cpu" if build == "cpu" else "cu1"))
    return found[-1] if found else ""


def usual_index_has(build: str, driver_new: bool, platform: str = sys.platform) -> bool:
    """Whether the usual index of packages holds that build of PyTorch: there it is CUDA's on Linux, else the CPU's."""
    if platform == "darwin":
        return True
    return build == "cuda" and driver_new if platform.startswith("linux") else build == "cpu"
