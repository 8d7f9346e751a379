"""The DICOM files of a volume, where Slicer's database knows them: what a DICOM SEG refers to."""

from __future__ import annotations

import os
from typing import Any

import slicer


def source_files(volume: Any) -> list[str]:
    """Paths of all instances of a volume; empty when one of them is not known any more."""
    database = getattr(slicer, "dicomDatabase", None)
    instances = (volume.GetAttribute("DICOM.instanceUIDs") or "").split()
    if database is None or not instances:
        return []
    files = [str(database.fileForInstance(uid) or "") for uid in instances]
    return files if all(path and os.path.isfile(path) for path in files) else []
