"""What `Bank.verify` looks at: every file against its hash; left-overs of interrupted processes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from rau.bank.entry import ID, Entry
from rau.bank.files import ENTRY, FILES, plain_file
from rau.errors import InputError
from rau.models.store import sha256

_LEFT_FOLDER = re.compile(r"\.(part|old)-[0-9a-f]{32}$")
_LEFT_FILE = re.compile(r"\.[0-9a-f]{16}\.tmp")


def clean(root: Path) -> list[str]:
    """Take away half-written and half-removed entries, and temporary files; one line for each. Needs the lock."""
    told = []
    for one in sorted(root.iterdir()):
        if _LEFT_FOLDER.match(one.name):
            delete(one)
            told.append(f"{one.name[:13]}: left by an interrupted process, taken away")
        elif _LEFT_FILE.match(one.name):
            told += _gone(one)
    for pattern in (".cache/.*", "*/descriptors/.*"):
        for one in sorted(root.glob(pattern)):
            if _LEFT_FILE.match(one.name):
                told += _gone(one)
    return told


def delete(path: Path) -> None:
    """A folder with all that is in it; of a link the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _gone(path: Path) -> list[str]:
    path.unlink(missing_ok=True)
    return [f"{path.name}: left by an interrupted process, taken away"]


def check_entry(folder: Path, entry: Entry) -> list[str]:
    """Raises InputError: a file damaged, missing, unknown or a link. Damaged descriptors are taken away and told: they
    are made again when they are needed."""
    from rau.bank.descriptors import damaged

    if set(entry.files) != set(FILES) or not re.match(ID, entry.id):
        raise InputError("entry.json names other files than the bank keeps")
    for name, wanted in entry.files.items():
        if sha256(plain_file(folder / name)) != wanted:
            raise InputError(f"{name} was changed or is damaged")
    known = {ENTRY, *FILES, "descriptors"}
    strange = [one.name for one in folder.iterdir() if one.name not in known or one.is_symlink()]
    if strange:
        raise InputError(f"{len(strange)} files lie in it that the bank did not write, or links")
    told = []
    for path in sorted((folder / "descriptors").glob("*")):
        if damaged(path):
            path.unlink()
            told.append(f"{folder.name[:8]}: damaged descriptors, taken away")
    return told
