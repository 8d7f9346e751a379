"""What the panel knows of the references of a bank, as the worker lists them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.reference_facts import plane_text


@dataclass(frozen=True)
class BankStructure:
    """A structure of an entry. color: RGB, 0 to 1."""

    name: str
    color: tuple[float, float, float]
    terminology: str


@dataclass(frozen=True)
class BankEntry:
    """shape: (slices, rows, columns). spacing: mm, in that order; None: not known. plane: the engine's word. thumbnail:
    the path of a PNG."""

    entry_id: str
    title: str
    modality: str
    body_part: str
    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None
    structures: tuple[BankStructure, ...]
    added: str
    accepted: bool
    thumbnail: str
    plane: str = ""

    @property
    def kind(self) -> str:
        """Modality and plane."""
        return " ".join(one for one in (self.modality, plane_text(self.plane)) if one)

    @property
    def headline(self) -> str:
        return self.title or ", ".join(one.name for one in self.structures[:3])

    @property
    def spacing_text(self) -> str:
        return "" if self.spacing is None else " \u00d7 ".join(f"{s:.3g}" for s in self.spacing) + " mm"

    def tip(self) -> str:
        """All of it, as rich text."""
        names = ", ".join(one.name for one in self.structures)
        lines = [
            self.headline,
            " ".join(part for part in (self.kind, self.body_part) if part),
            " \u00d7 ".join(str(n) for n in self.shape) + (f", {self.spacing_text}" if self.spacing else ""),
            _("Structures: {names}").format(names=names),
            (_("Accepted on {date}") if self.accepted else _("Added on {date}")).format(date=self.added[:10]),
        ]
        return "<qt>" + "<br>".join(html.escape(line) for line in lines if line) + "</qt>"


@dataclass(frozen=True)
class BankChoice:
    """References that a run takes from a bank: those of `ids`; without any, the bank chooses among `entries`."""

    folder: str
    ids: tuple[str, ...]
    entries: tuple[BankEntry, ...]

    @property
    def offered(self) -> tuple[BankEntry, ...]:
        """Whose structures can be segmented."""
        return tuple(one for one in self.entries if not self.ids or one.entry_id in self.ids)


def entries_of(rows: Sequence[dict[str, Any]]) -> tuple[BankEntry, ...]:
    """Of the answer to `bank_list`. Raises KeyError, TypeError, ValueError for what is none."""
    return tuple(_entry(row) for row in rows)


def _entry(row: dict[str, Any]) -> BankEntry:
    structures = tuple(_structure(one) for one in row["structures"])
    spacing = None if row["spacing"] is None else tuple(float(s) for s in row["spacing"])
    texts = [str(row[name]) for name in ("id", "title", "modality", "body_part")]
    shape = tuple(int(n) for n in row["shape"])
    accepted = row["how"] == "accepted"
    return BankEntry(
        *texts, shape, spacing, structures, str(row["added"]), accepted, str(row["thumbnail"]), str(row["plane"])
    )


def _structure(one: dict[str, Any]) -> BankStructure:
    red, green, blue = (float(c) for c in one["color"])
    return BankStructure(str(one["name"]), (red, green, blue), str(one["terminology"]))
