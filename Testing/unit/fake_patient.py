"""Seeded fake patients, and what may not be found of them anywhere: for tests that patient data stays where it is."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pydicom

from builders import write_series
from rau.volume.volume import Volume

NAMES = ["Wolkenstein^Adalbert", "Ngoezi^Thandiwe", "Oezguer^Leyla", "Llanfair^Gwyn"]


def patient(seed: int) -> dict[str, str]:
    """A fake patient; no two of their values are alike, and none is a word of a header."""
    rng = np.random.default_rng(seed)
    digits = "".join(str(n) for n in rng.integers(0, 10, 7))
    return {
        "PatientName": NAMES[seed % len(NAMES)],
        "PatientID": f"ZZ{digits}Q",
        "PatientBirthDate": f"19{rng.integers(10, 99)}0{rng.integers(1, 9)}1{rng.integers(0, 9)}",
        "AccessionNumber": f"ACX{digits[::-1]}",
        "InstitutionName": "Klinikum Entenhausen",
        "ReferringPhysicianName": "Brummbaer^Kunigunde",
        "SeriesDescription": f"Untersuchung {digits}",
        "PatientComments": f"Tochter von {NAMES[(seed + 1) % len(NAMES)]}",
    }


def strings_of(known: dict[str, str]) -> set[str]:
    """Whole values, and each part of them of four characters or more."""
    parts = {part for value in known.values() for part in value.replace("^", " ").split() if len(part) >= 4}
    return {one.lower() for one in parts | set(known.values())} - {"tochter", "untersuchung"}


def unpacked(folder: Path) -> bytes:
    """Every byte of the folder: names of files, their contents, and what is compressed in them."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            data = path.read_bytes()
            found.append(data)
            if path.suffix in (".nrrd", ".gz"):
                content = data.split(b"\n\n", 1)[1] if path.suffix == ".nrrd" else data
                found.append(gzip.decompress(content))
            if path.suffix == ".png":
                start = data.index(b"IDAT") + 4
                found.append(zlib.decompressobj().decompress(data[start:]))
    return b"\n".join(found).lower()


def write_case(folder: Path, volume: Volume, known: dict[str, str]) -> list[Path]:
    """A DICOM series of the volume whose headers carry the patient, in a private element too."""
    files = write_series(folder, volume)
    for file in files:
        dataset = pydicom.dcmread(file)
        for keyword, value in known.items():
            setattr(dataset, keyword, value)
        dataset.add_new(0x00991001, "LO", known["PatientName"])
        dataset.save_as(file)
    return files


def leaks(data: bytes, known: dict[str, str]) -> list[str]:
    """Which strings of the patient are in the bytes; in UTF-16 as well."""
    low = data.lower()
    return sorted(one for one in strings_of(known) if one.encode() in low or one.encode("utf-16-le") in low)
