"""Patient identity stays at the door of the bank.

Nothing of a file's header is copied into the bank: only voxels, grid, and the names, colours and codes of structures.
What a person types (title, body part, note, who added it) and the names of structures are kept as they are. So these
are held against what the source is known to say of the patient, and refused where they repeat it:

- DICOM: names (of all persons), dates, UIDs, and the elements of `IDENTIFIERS`;
- NIfTI: the free text of the header (descrip, aux_file, intent_name, db_name);
- NRRD, MetaImage: header entries whose key speaks of patient, birth, accession, study, series, institution, physician.

Upper and lower case and punctuation do not matter; a date is known in its usual spellings, a name by each of its words
of three letters or more; of free text the whole counts, and what looks like a name or a number. Series and study
descriptions are not held against ("Abdomen" must be sayable), staff and institutions not against who added it. What is
burnt into the pixels is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rau.errors import InputError

IDENTIFIERS = (
    "PatientID", "OtherPatientIDs", "IssuerOfPatientID", "PatientAddress", "PatientTelephoneNumbers",
    "MedicalRecordLocator", "MilitaryRank", "AccessionNumber", "StudyID", "AdmissionID", "ServiceEpisodeID",
    "DeviceSerialNumber", "InstitutionName", "InstitutionAddress", "StationName", "PatientComments",
)  # fmt: skip
STAFF = re.compile(r"Institution|Physician|Operator|Performing|Station|Creator|Observer")
NIFTI_TEXT = ("descrip", "aux_file", "intent_name", "db_name")
FREE_TEXT = (*NIFTI_TEXT, "PatientComments")
_TELLING = re.compile(r"patient|birth|accession|study|series|institution|physician|operator", re.IGNORECASE)
_SHORTEST_WORD, _SHORTEST_ID, _COMPACT = 3, 4, 6


def plain(text: str) -> str:
    """Letters and digits in lower case, words apart by one space."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


@dataclass(frozen=True)
class Identity:
    """What is known of the patient: (where it stands, `plain` value) pairs. Never written anywhere, never told."""

    known: frozenset[tuple[str, str]] = frozenset()

    def __or__(self, other: Identity) -> Identity:
        return Identity(self.known | other.known)

    def __repr__(self) -> str:
        return f"Identity({len(self.known)} values)"

    def found_in(self, text: str, staff: bool = True) -> str:
        """Where the source says what `text` repeats ("PatientName"); "" when it repeats nothing.

        staff: whether staff and institutions count.
        """
        said = plain(text)
        compact = said.replace(" ", "")
        for keyword, value in sorted(self.known):
            if not staff and STAFF.search(keyword):
                continue
            run = value.replace(" ", "")
            whole = f" {value} " in f" {said} " or (len(run) >= _SHORTEST_ID and run in said.split())
            if whole or (len(run) >= _COMPACT and run in compact):
                return keyword
        return ""

    def refuse(self, what: str, text: str, staff: bool = True) -> None:
        """Raises InputError where `text` repeats what the source says of the patient; the value is not told."""
        keyword = self.found_in(text, staff)
        if keyword:
            raise InputError(f"{what} repeats the {keyword} of the source", "Say it without what names the patient")


def identity_from(values: Iterable[tuple[str, str]]) -> Identity:
    """Of (keyword, value) pairs. Keywords that end in Name: every word; in Date: the usual spellings; else whole.

    Of free text also what looks like a name (Doe^Jane) or like a number (six letters and digits, one a digit).
    """
    known: set[tuple[str, str]] = set()
    for keyword, value in values:
        if keyword in FREE_TEXT:
            tokens = re.split(r"[\s;,|=]+", value)
            names = [word for one in tokens if "^" in one for word in plain(one).split()]
            numbers = [plain(one) for one in tokens if len(one) >= _COMPACT and re.search(r"\d", one)]
            known |= {(keyword, one) for one in [*names, *numbers] if len(one) >= _SHORTEST_WORD}
        words = plain(value).split()
        whole = " ".join(words)
        if keyword.endswith(("Name", "Names", "Physician")) and not keyword.startswith(("Institution", "Station")):
            known |= {(keyword, word) for word in words if len(word) >= _SHORTEST_WORD and not word.isdigit()}
            known |= {(keyword, whole), (keyword, " ".join(reversed(words)))} if len(words) > 1 else set()
        elif keyword.endswith(("Date", "DateTime")):
            known |= {(keyword, one) for one in _dates(whole.replace(" ", ""))}
        elif len(whole.replace(" ", "")) >= _SHORTEST_ID:
            known.add((keyword, whole))
    return Identity(frozenset(known))


def _dates(digits: str) -> list[str]:
    """19700102... as year month day, day month year, month day year."""
    year, month, day = digits[:4], digits[4:6], digits[6:8]
    if len(day) < 2 or not digits[:8].isdigit():
        return []
    return [f"{year} {month} {day}", f"{day} {month} {year}", f"{month} {day} {year}"]


def identity_of(path: Path, series: str | None = None) -> Identity:
    """What the file, or the series of a DICOM folder, says of its patient; nothing for pictures. Raises InputError."""
    from rau.volume.files import checked, kind_of

    found = checked(path)
    kind = kind_of(found)
    if kind == "itk":
        return identity_from(_header_texts(found))
    if kind in ("dicom", "folder"):
        return identity_from(pair for dataset in _datasets(found, series) for pair in _elements(dataset))
    return Identity()


def _header_texts(path: Path) -> list[tuple[str, str]]:
    import SimpleITK as sitk

    from rau.volume.files import quiet_stderr

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    found = []
    try:
        with quiet_stderr():
            reader.ReadImageInformation()
        for key in reader.GetMetaDataKeys():
            if key in NIFTI_TEXT or _TELLING.search(key):
                found.append((key, reader.GetMetaData(key)))
    except (RuntimeError, UnicodeError):
        return found  # what cannot be read at all is refused by the reader of images
    return found


def _datasets(path: Path, series: str | None) -> list[Any]:
    """The first header of the image series; of a segmentation (a SEG is no image series) that of its file."""
    from rau.volume.dicom import pick_series, read_header

    try:
        return [pick_series(path, series).datasets[0]]
    except InputError:
        files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
        return [header for header in map(read_header, files) if header is not None][:1]


def _elements(dataset: Any) -> list[tuple[str, str]]:
    found = []
    for element in dataset.iterall():
        keyword, text = element.keyword or "a private element", str(element.value or "")
        if element.VR == "UI":
            if not text.startswith("1.2.840.10008."):
                found.append((keyword, text))
        elif element.VR == "PN":
            found.append((keyword if keyword.endswith(("Name", "Names", "Physician")) else f"{keyword}Name", text))
        elif element.VR in ("DA", "DT") or keyword in IDENTIFIERS:
            found.append((keyword, text))
    return found
