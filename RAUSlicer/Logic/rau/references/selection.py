"""Which structures to segment, and one numbering of them over all references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rau.errors import InputError
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import Structure


def unify(references: Sequence[Reference]) -> tuple[tuple[Structure, ...], list[np.ndarray]]:
    """The structures of all references by name, and the label arrays renumbered accordingly.

    A name keeps the value of the first reference that has it; a later structure whose value is taken gets the next free
    one. With one reference nothing changes.
    """
    structures: dict[str, Structure] = {}
    arrays = []
    for reference in references:
        table = {}
        for one in reference.structures:
            name = one.name.strip().lower()
            if name not in structures:
                taken = {s.value for s in structures.values()}
                value = one.value if one.value not in taken else max(taken) + 1
                structures[name] = replace(one, value=value)
            table[one.value] = structures[name].value
        array = reference.labels.array
        if any(old != new for old, new in table.items()):
            renumbered = np.zeros(array.shape, np.uint16)
            for old, new in table.items():
                renumbered[array == old] = new
            array = renumbered
        arrays.append(array)
    return tuple(structures.values()), arrays


def choose(structures: Sequence[Structure], settings: SegmentSettings) -> tuple[Structure, ...]:
    """The structures that `settings` ask for; all when they name none.

    `prompt` chooses the structures whose names occur in it as whole words. Raises InputError with the known names.
    """
    known = ", ".join(s.name for s in structures)
    by_name = {s.name.strip().lower(): s for s in structures}
    if settings.structures:
        unknown = [n for n in settings.structures if n.strip().lower() not in by_name]
        if unknown:
            raise InputError(f"The references have no structure called {', '.join(unknown)}", f"They have: {known}")
        wanted = {n.strip().lower() for n in settings.structures}
        structures = [s for s in structures if s.name.strip().lower() in wanted]
    if settings.prompt:
        text = settings.prompt.lower()
        named = [s for s in structures if re.search(rf"(?<!\w){re.escape(s.name.strip().lower())}(?!\w)", text)]
        if not named:
            raise InputError("The prompt names no structure of the references", f"They have: {known}")
        structures = named
    return tuple(structures)
