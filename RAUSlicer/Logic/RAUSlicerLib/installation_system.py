"""What the computer offers to an environment of our own: Pythons, graphics driver, disk, proxy, and its folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from RAUSlicerLib.environment import FOREIGN, Launch
from RAUSlicerLib.exchange import alive
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

HELPER = Path(__file__).with_name("installation_helper.py")
LEAST, BEYOND = (3, 10), (3, 15)  # versions of Python that the pinned packages have wheels for
NAMES = ("python3.12", "python3.13", "python3.11", "python3.10", "python3.14", "python3", "python")
CUDA_DRIVER = 580  # the oldest NVIDIA driver for the CUDA of the pinned PyTorch


@dataclass(frozen=True)
class Python:
    """A Python that can make the environment. pip: places to take pip from. index: of pip's settings; empty:
    pip's own."""

    program: str
    version: tuple[int, int, int]
    pip: tuple[str, ...]
    index: str = ""

    @property
    def words(self) -> str:
        return "Python " + ".".join(str(n) for n in self.version)


@dataclass(frozen=True)
class Gpu:
    """total, free: MB of its memory."""

    name: str
    driver: str
    total: int
    free: int

    @property
    def new_enough(self) -> bool:
        """Whether its driver runs the CUDA of the pinned PyTorch."""
        return int(re.match(r"\d*", self.driver).group() or 0) >= CUDA_DRIVER  # type: ignore[union-attr]


# -- Pythons
def candidates(slicer_home: str, environ: Mapping[str, str]) -> list[str]:
    """Programs that may be a Python to make the environment with: the system's, then Slicer's own."""
    found = [shutil.which(name, path=environ.get("PATH")) for name in NAMES]
    ending = ".exe" if sys.platform == "win32" else ""
    places = [Path(slicer_home, "bin", f"PythonSlicer{ending}")] if slicer_home else []
    found += [str(place) for place in places if place.is_file()]
    return list(dict.fromkeys(one for one in found if one and not is_store_stub(one)))


def is_store_stub(program: str) -> bool:
    """Windows' `python` that opens the store instead."""
    return "WindowsApps" in Path(program).parts


def python_from(program: str, told: Mapping[str, Any]) -> Python | None:
    """The Python of a probe's answer; None when it will not do."""
    try:
        major, minor, micro = (int(n) for n in told["version"])
        usable = LEAST <= (major, minor) < BEYOND and told["bits"] == 64 and told["venv"] and told["pip"]
        pip = tuple(str(one) for one in told["pip"])
        return Python(program, (major, minor, micro), pip, str(told["index"])) if usable else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def no_python() -> Problem:
    return Problem(
        _("No Python 3.10 to 3.14 (64 bit) was found that can make an environment"),
        _("Install Python from python.org, or choose a Python that has the engine under Advanced"),
        "EnvironmentError",
    )


def helper(program: str, arguments: Sequence[str], variables: Mapping[str, str]) -> Launch:
    return Launch(program, (str(HELPER), *arguments), tuple(sorted(variables.items())))


# -- variables of the processes
def clean(base: Mapping[str, str]) -> dict[str, str]:
    """`base` without what points at another Python; with the proxy that the system knows."""
    kept = {name: value for name, value in base.items() if name not in FOREIGN}
    kept.update(PYTHONNOUSERSITE="1", PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    for scheme, address in urllib.request.getproxies().items():
        name = f"{scheme}_proxy"
        if scheme in ("http", "https", "no") and name not in kept and name.upper() not in kept:
            kept[name.upper()] = address
    return kept


def with_proxy(variables: Mapping[str, str], proxy: str) -> dict[str, str]:
    """With the proxy that the user gave, in place of any other. Raises Problem: no address."""
    if not proxy.strip():
        return dict(variables)
    address = proxy.strip() if "://" in proxy else "http://" + proxy.strip()
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https", "socks5", "socks5h") and parts.hostname and parts.port
    except ValueError:
        usable = None
    if not usable:
        raise Problem(_("The address of the proxy is not usable"), _("Give one like proxy.hospital.example:8080"))
    kept = {name: value for name, value in variables.items() if name.lower() not in ("http_proxy", "https_proxy")}
    return {**kept, "HTTP_PROXY": address, "HTTPS_PROXY": address}


def proxy_of(variables: Mapping[str, str]) -> str:
    """Host and port of the proxy, without a password; empty without one."""
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        if variables.get(name):
            return host_of(variables[name])
    return ""


def host_of(address: str) -> str:
    """Host and port of an address; what it says of user and password stays out."""
    parts = urlsplit(address if "://" in address else "//" + address)
    return parts.netloc.rpartition("@")[2] or parts.path


# -- graphics
def gpu_launch(environ: Mapping[str, str]) -> Launch | None:
    """How to ask NVIDIA's driver; None without one."""
    program = shutil.which("nvidia-smi", path=environ.get("PATH"))
    query = ("--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader,nounits")
    return Launch(program, query, tuple(sorted(environ.items()))) if program else None


def gpu_from(text: str) -> Gpu | None:
    """The card with most free memory of what nvidia-smi says; None when it names none."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[2].isdecimal() and parts[3].isdecimal():
            found.append(Gpu(parts[0], parts[1], int(parts[2]), int(parts[3])))
    return max(found, key=lambda one: one.free, default=None)


# -- disk
def free_bytes(folder: Path) -> int:
    """Of the disk on which the folder will lie; 0 when that cannot be told."""
    for place in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return 0


def check_writable(folder: Path) -> None:
    """Make the folder. Raises Problem when that is not allowed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError:
        raise Problem(
            _("The folder {folder} cannot be written").format(folder=folder),
            _("Ask for the right to write there, or set RAU_ENVIRONMENT to another folder"),
            "PermissionError",
        ) from None


# -- one set-up at a time
def claim(folder: Path) -> None:
    """Take the folder for this process. Raises Problem while another one works in it."""
    note = folder / "at-work.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = int(json.loads(note.read_text())["process"])
        if owner != os.getpid() and sys.platform != "win32" and alive(owner):
            raise Problem(
                _("Another Slicer is setting up this environment"), _("Wait until it has ended"), "EnvironmentError"
            )
    note.write_text(json.dumps({"process": os.getpid()}))


def release(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "at-work.json").unlink()
