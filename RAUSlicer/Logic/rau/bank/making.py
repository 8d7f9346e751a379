"""What goes into `entry.json`: what is told of a reference, and what is kept of a run that was accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rau.bank.entry import LARGEST, Entry, KeptStructure, Provenance
from rau.bank.files import ENTRY, FILES, checked_array
from rau.bank.identity import Identity
from rau.errors import InputError
from rau.models.store import sha256
from rau.references.reference import Reference


def write_entry(
    reference: Reference, folder: Path, entry_id: str, told: Mapping[str, str], provenance: Provenance
) -> Entry:
    """`entry.json` for the files in `folder`. told: the texts and hashes of `Entry`. Raises InputError: too long."""
    image, labels = reference.image, reference.labels
    grid = image.geometry
    try:
        entry = Entry(
            id=entry_id,
            structures=tuple(
                KeptStructure(value=one.value, name=one.name, color=one.color, terminology=one.terminology)
                for one in labels.structures
            ),
            modality=image.modality,
            shape=grid.shape,
            spacing=grid.spacing,
            origin=grid.origin,
            direction=tuple(tuple(row) for row in np.asarray(grid.direction).tolist()),
            spacing_known=image.spacing_known,
            colour=image.is_colour,
            image_type=image.array.dtype.name,
            labels_type=checked_array(labels.array, "label map").dtype.name,
            files={name: sha256(folder / name) for name in FILES},
            added=datetime.now(timezone.utc).isoformat(timespec="microseconds"),
            provenance=provenance,
            **told,
        ).sealed()
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        raise InputError(f"The {first['loc'][0]} of the entry is not usable: {first['msg']}", "Change it") from None
    (folder / ENTRY).write_text(entry.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return entry


def run_record(provenance: Mapping[str, Any], identity: Identity) -> dict[str, Any]:
    """What the bank keeps of a run's provenance. Raises InputError when it is no such or far too long."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): clean(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(one) for one in value]
        if isinstance(value, str):
            return "" if identity.found_in(value) else value
        return value if value is None or isinstance(value, (bool, int, float)) else str(value)

    kept = {key: clean(provenance[key]) for key in ("settings", "versions", "bank") if key in provenance}
    settings = kept.get("settings")
    if isinstance(settings, dict):
        settings.pop("prompt", None)
        if "model" in settings:
            settings["model"] = Path(str(settings["model"])).name
    if not kept or len(json.dumps(kept)) > LARGEST // 4:
        raise InputError("This is not the provenance of a run", "Give the report that `rau segment --report` wrote")
    return kept
