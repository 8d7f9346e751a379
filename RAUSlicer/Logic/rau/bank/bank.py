"""The bank as a folder: `bank.json`, and one folder of a random name for each reference.

Writing holds the bank's lock; an entry is made whole in a folder beside the others and then renamed, a removed one
renamed away and then deleted. So a process may end at any point, and readers need no lock. There is no index that could
be wrong: the folders are the index.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rau.bank.checking import check_entry, clean, delete
from rau.bank.entry import ID, LARGEST, Entry, Provenance, parse_entry
from rau.bank.files import ENTRY, FILES, IMAGE, LABELS, THUMBNAIL, hashes_of, plain_file, read_array, sync, write_files
from rau.bank.identity import Identity
from rau.bank.making import run_record, write_entry
from rau.bank.shelf import Shelf, shelf_of
from rau.errors import InputError
from rau.models.store import sha256
from rau.references.reference import Reference
from rau.volume.volume import LabelMap, Volume

if TYPE_CHECKING:
    from rau.bank.descriptors import Means

log = logging.getLogger(__name__)
Tell = Callable[[str], None]
BANK, LOCK, FORMAT = "bank.json", ".lock", 1
PART, OLD = ".part-", ".old-"
PATIENCE = 120.0  # seconds to wait for another process
SETTLED = 5e9  # ns since the folder last changed, after which its time says whether it changed again
MENDING = "Remove it with `rau bank remove`, or look after it with `rau bank verify`"


@dataclass(frozen=True)
class Verified:
    """What `Bank.verify` found. entries: those that are whole. problems: (folder, one line) of those that are not.
    cleaned: one line for each left-over that was taken away."""

    entries: tuple[Entry, ...]
    problems: tuple[tuple[str, str], ...]
    cleaned: tuple[str, ...]

    @property
    def clean(self) -> bool:
        return not self.problems


class Bank:
    """A bank that is open. Several processes may hold the same bank open and write to it.

    root: its folder. means: what `rau.bank.descriptors` has read of it, by file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, Entry] = {}
        self.means: dict[str, Means] = {}
        self._shelf: Shelf | None = None
        self._listed: tuple[tuple[int, int], tuple[Entry, ...]] | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Bank:
        """A new bank in a new or empty folder; one that is there is opened. Raises InputError: other things lie there,
        or it cannot be made."""
        from rau.export.writing import replaced

        root = Path(path).expanduser()
        if (root / BANK).exists():
            return cls.open(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            if any(not one.name.startswith(".") for one in root.iterdir()):
                raise InputError(f"The folder {root.name} is not empty and is no bank", "Give a new folder")
        except OSError:
            raise InputError(f"The bank {root.name} cannot be made there", "Choose another folder") from None
        with replaced(root / BANK) as temporary:
            temporary.write_text(json.dumps({"format": FORMAT}) + "\n", encoding="utf-8")
        return cls.open(root)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bank:
        """Raises InputError: no bank there, a damaged one, one of a later version."""
        root = Path(path).expanduser()
        try:
            told = json.loads(plain_file(root / BANK).read_bytes()[:LARGEST])
            version = told["format"]
        except (InputError, OSError):
            raise InputError(f"The folder {root.name} is no reference bank", "Make one with `rau bank add`") from None
        except (ValueError, TypeError, KeyError):
            raise InputError(f"{BANK} of {root.name} is damaged", f'Write {{"format": {FORMAT}}} into it') from None
        if version != FORMAT:
            raise InputError(f"The bank {root.name} is of format {version}, not {FORMAT}", "Use a newer RAUSlicer")
        return cls(root)

    def entries(self, tell: Tell = log.warning) -> tuple[Entry, ...]:
        """All that can be used, the oldest first. A damaged one is told, one line, and passed over.

        The same tuple comes back while the bank's folder does not change; that is what makes a long list quick.
        """
        stamp = self._stamp()
        if self._listed is not None and self._listed[0] == stamp:
            return self._listed[1]
        found, known, whole = [], {}, True
        for name in self._folders():
            try:
                known[name] = self._known.get(name) or self._read(name)
                found.append(known[name])
            except InputError as problem:
                whole = False
                if (self.root / name).is_dir():  # not removed just now
                    tell(f"The entry {name[:8]} of the bank is passed over: {problem.message}")
        self._known = known
        entries = tuple(sorted(found, key=lambda one: (one.added, one.id)))
        self._listed = (stamp, entries) if whole and stamp is not None else None
        return entries

    def shelf(self, tell: Tell = log.warning, leave_out: Collection[str] = ()) -> Shelf:
        """The entries but those of `leave_out`, ready to be searched; made again only when the bank has changed."""
        entries = self.entries(tell)
        if leave_out:
            return shelf_of([one for one in entries if one.id not in leave_out])
        if self._shelf is None or self._shelf.source is not entries:
            self._shelf = shelf_of(entries)
        return self._shelf

    def show(self, entry_id: str) -> Entry:
        """The entry of that id, or of an id that begins so (four characters or more). Raises InputError."""
        name = self._named(entry_id)
        try:
            return self._read(name)
        except InputError as problem:
            raise InputError(f"The entry {name[:8]} is damaged: {problem.message}", MENDING) from None

    def reference(self, entry_id: str) -> Reference:
        """The reference as it was added: voxels, types, grid, structures. Raises InputError: no such, damaged."""
        entry = self.show(entry_id)
        folder = self.root / entry.id
        try:
            for name in (IMAGE, LABELS):
                if sha256(plain_file(folder / name)) != entry.files.get(name):
                    raise InputError(f"{name} was changed or is damaged")
            shape = (*entry.shape, 3) if entry.colour else entry.shape
            image = read_array(folder / IMAGE, shape, entry.image_type)
            labels = read_array(folder / LABELS, entry.shape, entry.labels_type)
        except (InputError, OSError) as problem:
            told = problem.message if isinstance(problem, InputError) else "it cannot be read"
            raise InputError(f"The entry {entry.id[:8]} is damaged: {told}", MENDING) from None
        volume = Volume(image, entry.geometry, entry.modality, entry.label, entry.spacing_known)
        structures = tuple(one.structure() for one in entry.structures)
        return Reference(volume, LabelMap(labels, entry.geometry, structures))

    def thumbnail(self, entry_id: str) -> Path:
        """The PNG of the middle labelled slice. Raises InputError."""
        return plain_file(self.root / self.show(entry_id).id / THUMBNAIL)

    def add(
        self,
        reference: Reference,
        *,
        title: str = "",
        body_part: str = "",
        note: str = "",
        added_by: str = "",
        identity: Identity | None = None,
        provenance: Provenance | None = None,
        tell: Tell = log.warning,
    ) -> Entry:
        """Keep a reference; when this returns, it is on the disk.

        The same voxels, labels, structures and grid are kept once: then the entry that is there comes back, and `tell`
        says so. identity: what is known of the patient (`rau.bank.identity.identity_of`); a text or the name of a
        structure that repeats it is refused. Nothing of the image's own file, not its name either, is kept. Raises
        InputError: such a text, one too long, voxels of a type that is not kept, a bank that cannot be written.
        """
        texts = {"title": title, "body part": body_part, "note": note, "added by": added_by}
        names = {f"name of the structure {one.value}": one.name for one in reference.structures}
        for what, text in {**texts, **names}.items():
            (identity or Identity()).refuse(f"The {what}", text, staff=what != "added by")
        content, image = hashes_of(reference.image, reference.labels)
        with self._writing():
            for entry in self.entries(tell):
                if entry.content == content:
                    tell(f"This reference is in the bank already, as {entry.label}")
                    return entry
            told = {"title": title, "body_part": body_part, "consent": note, "added_by": added_by}
            hashes = {"content": content, "image": image}
            entry_id = uuid4().hex
            with self._made(entry_id) as folder:
                write_files(reference, folder)
                return write_entry(reference, folder, entry_id, {**told, **hashes}, provenance or Provenance())

    def accept(
        self, reference: Reference, provenance: Mapping[str, Any], *, identity: Identity | None = None, **told: Any
    ) -> Entry:
        """Keep a corrected result: target and labels as `reference`, with the provenance of the run it came from.

        provenance: of `SegmentResult` or its report; kept are settings (but not the prompt), versions, and the entries
        of the bank that were used; empty: nothing is known of a run. told: as for `add`. Raises InputError.
        """
        run = run_record(provenance, identity or Identity()) if provenance else {}
        return self.add(reference, identity=identity, provenance=Provenance(how="accepted", run=run), **told)

    def remove(self, entry_id: str) -> str:
        """Delete an entry, also a damaged one; its whole id comes back. Raises InputError: no such."""
        with self._writing():
            name = self._named(entry_id)
            old = self.root / f"{OLD}{uuid4().hex}"
            try:
                os.replace(self.root / name, old)
            except OSError:
                raise InputError(f"The entry {name[:8]} cannot be removed", "Check the permissions") from None
            sync(self.root)
            self._known.pop(name, None)
            delete(old)
            return name

    def verify(self) -> Verified:
        """Hold every file against its hash, and take away what an interrupted process left. Raises InputError."""
        with self._writing():
            cleaned = clean(self.root)
            whole, problems = [], []
            for name in self._folders():
                try:
                    entry = self._read(name)
                    cleaned += check_entry(self.root / name, entry)
                    whole.append(entry)
                except (InputError, OSError) as problem:
                    told = problem.message if isinstance(problem, InputError) else "it cannot be read"
                    problems.append((name, told))
        return Verified(tuple(whole), tuple(problems), tuple(cleaned))

    def _stamp(self) -> tuple[int, int] | None:
        """What changes when an entry comes or goes; None while the last change is too young to tell the next one."""
        try:
            told = os.stat(self.root)
        except OSError:
            return None  # `_folders` says what is wrong
        return (told.st_mtime_ns, told.st_ino) if time.time_ns() - told.st_mtime_ns > SETTLED else None

    def _folders(self) -> list[str]:
        try:
            with os.scandir(self.root) as found:
                return sorted(one.name for one in found if re.match(ID, one.name))
        except OSError:
            raise InputError(
                f"The bank {self.root.name} cannot be read", "Check the path and its permissions"
            ) from None

    def _named(self, entry_id: str) -> str:
        """The one folder whose name is, or begins with, this id. Nothing but hexadecimal digits comes near a path."""
        asked = entry_id.strip().lower()
        if not re.fullmatch(r"[0-9a-f]{4,32}", asked):
            raise InputError("An id of the bank is 4 to 32 of the characters 0-9 and a-f", "See `rau bank list`")
        if len(asked) == 32 and os.path.lexists(self.root / asked):
            return asked
        found = [name for name in self._folders() if name.startswith(asked)]
        if len(found) != 1:
            many = f"{len(found)} entries begin with {asked}" if found else f"The bank has no entry {asked}"
            raise InputError(many, "See `rau bank list`")
        return found[0]

    def _read(self, name: str) -> Entry:
        folder = self.root / name
        if folder.is_symlink() or not folder.is_dir():
            raise InputError("it is a link or a file, not a folder of the bank")
        try:
            path = plain_file(folder / ENTRY)
            with open(path, "rb") as stream:
                entry = parse_entry(stream.read(LARGEST), name)
            for file in FILES:
                plain_file(folder / file)
        except OSError:
            raise InputError("it cannot be read") from None
        return entry

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """The bank's lock. Raises InputError: not to be had, or not writable."""
        from filelock import FileLock, Timeout

        try:
            lock = FileLock(self.root / LOCK, timeout=PATIENCE)
            lock.acquire()
        except Timeout:
            raise InputError("Another process is writing to the bank", "Try again when it has ended") from None
        except OSError:
            raise InputError(f"The bank {self.root.name} cannot be written", "Check the permissions") from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _made(self, entry_id: str) -> Iterator[Path]:
        """A new folder that becomes the entry when all went well, or leaves nothing. Raises InputError."""
        part = self.root / f"{PART}{uuid4().hex}"
        try:
            part.mkdir()
            yield part
            for one in (*part.iterdir(), part):
                sync(one)
            os.replace(part, self.root / entry_id)
            sync(self.root)
        except (OSError, RuntimeError):
            raise InputError("The entry cannot be written", "Check the space and the permissions of the bank") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
