"""References of a job that come from the user's bank, with the label values that the panel expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import LabelMap, Volume
from rau.worker.protocol import SegmentJob

if TYPE_CHECKING:
    from rau.bank.search import Pick
    from rau.models.engine import Engine


def from_bank(request: SegmentJob, target: Volume, engine: Engine, tell: Callable[[str], None]) -> Pick:
    """The references that the job takes from its bank, numbered as it asks. Raises InputError: none fits, damaged."""
    from rau.bank.bank import Bank
    from rau.bank.search import pick

    bank = Bank.open(request.bank)
    ids, count = request.bank_ids, request.bank_count
    picked = pick(bank, target, engine, request.settings, count=count, ids=ids, tell=tell)
    return replace(picked, references=tuple(numbered(one, request.numbers) for one in picked.references))


def numbered(reference: Reference, numbers: Mapping[str, int]) -> Reference:
    """With these label values by name, case and outer spaces apart; other structures take the values after them."""
    wanted = {name.strip().lower(): value for name, value in numbers.items()}
    free = max([0, *wanted.values()]) + 1
    labels = reference.labels
    table = np.zeros(max(int(labels.array.max()), *(one.value for one in reference.structures)) + 1, np.uint16)
    structures = []
    for one in reference.structures:
        value = wanted.get(one.name.strip().lower())
        if value is None:
            value, free = free, free + 1
        table[one.value] = value
        structures.append(replace(one, value=value))
    return Reference(reference.image, LabelMap(table[labels.array], labels.geometry, tuple(structures)))


def narrowed(
    settings: SegmentSettings, references: Sequence[Reference], tell: Callable[[str], None]
) -> SegmentSettings:
    """Without the structures asked for that no reference shows: the bank may have chosen one that lacks some. Told."""
    shown = {one.name.strip().lower() for reference in references for one in reference.structures}
    missing = [name for name in settings.structures if name.strip().lower() not in shown]
    if not missing or len(missing) == len(settings.structures):
        return settings
    tell(f"No reference shows {', '.join(missing)}: left out")
    return settings.model_copy(update={"structures": tuple(n for n in settings.structures if n not in missing)})
