"""A folder of tiny wheels from which "Set up" makes a whole environment, without a network and in seconds."""

from __future__ import annotations

import hashlib
import zipfile
from importlib.metadata import version
from pathlib import Path

TORCH, PACKAGE = "torch", "stand-in"


def wheel(folder: Path, name: str, files: dict[str, str], number: str = "1.0") -> Path:
    """A wheel of text files."""
    stem = name.replace("-", "_")
    info = f"{stem}-{number}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{stem}-{number}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for where, text in content.items():
            file.writestr(where, text)
    return path


def pin(path: Path, name: str, number: str = "1.0") -> str:
    return f"{name}=={number} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def make(folder: Path) -> Path:
    """Two wheels; the one for torch brings the packages of the tests' own Python along, so that the engine runs.

    It has the version of their torch, which other packages ask for.
    """
    folder.mkdir(parents=True)
    import numpy

    packages, torch = Path(numpy.__file__).parents[1], version("torch").partition("+")[0]
    first = wheel(folder, TORCH, {"engine_packages.pth": f"{packages}\n"}, torch)
    second = wheel(folder, PACKAGE, {"stand_in.py": "here = True\n"})
    (folder / "requirements.txt").write_text(pin(first, TORCH, torch) + pin(second, PACKAGE))
    return folder
