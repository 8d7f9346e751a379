"""Patient identity stays at the door: seeded patients in headers, and not one of their strings in the bank's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
from fake_patient import patient, strings_of, unpacked, write_case

from builders import phantom
from rau.bank.bank import Bank
from rau.bank.identity import identity_from, identity_of
from rau.cli import main
from rau.errors import InputError
from rau.export.writing import write_labels
from rau.references.reference import Reference
from rau.volume.itk import to_itk


def dicom_case(folder: Path, known: dict[str, str]) -> tuple[Path, Path]:
    volume, labels = phantom()
    series = folder / known["PatientName"] / known["PatientID"]
    write_case(series, volume, known)
    return series, write_labels(labels, folder / f"{known['PatientID']}.seg.nrrd")


def nifti_case(folder: Path, known: dict[str, str]) -> tuple[Path, Path]:
    """The header's free text by hand: SimpleITK writes none."""
    volume, labels = phantom()
    path = folder / f"{known['PatientID']}.nii"
    sitk.WriteImage(to_itk(volume.array, volume.geometry), str(path))
    data = bytearray(path.read_bytes())
    data[148:228] = f"{known['PatientName']} {known['PatientID']} {known['PatientBirthDate']}".encode().ljust(80, b"\0")
    data[228:252] = known["AccessionNumber"].encode().ljust(24, b"\0")
    data[14:32] = known["PatientID"].encode().ljust(18, b"\0")
    path.write_bytes(bytes(data))
    return path, write_labels(labels, folder / f"{known['PatientID']}_seg.nrrd")


def meta_case(folder: Path, known: dict[str, str]) -> tuple[Path, Path]:
    volume, labels = phantom()
    image = to_itk(volume.array, volume.geometry)
    for keyword, value in known.items():
        image.SetMetaData(f"DICOM_{keyword}", value)
    path = folder / f"{known['PatientID']}.nrrd"
    sitk.WriteImage(image, str(path))
    return path, write_labels(labels, folder / f"{known['PatientID']}_seg.mha", provenance={"who": known["PatientID"]})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [dicom_case, nifti_case, meta_case])
def test_no_string_of_a_patient_is_anywhere_in_the_bank(tmp_path, make, seed):
    known = patient(seed)
    image, labels = make(tmp_path, known)
    folder = tmp_path / "bank"
    call = ["--image", str(image), "--labels", str(labels), "--title", "a case", "--added-by", "me"]
    assert main(["bank", "add", str(folder), *call]) == 0
    everything = unpacked(folder)
    assert b"a case" in everything
    assert [one for one in strings_of(known) if one.encode() in everything] == []


@pytest.mark.parametrize("make", [dicom_case, nifti_case, meta_case])
@pytest.mark.parametrize("option", ["--title", "--note", "--added-by", "--body-part"])
def test_a_text_that_repeats_the_patient_is_refused_without_repeating_it(tmp_path, make, option, capsys):
    known = patient(1)
    image, labels = make(tmp_path, known)
    call = ["bank", "add", str(tmp_path / "bank"), "--image", str(image), "--labels", str(labels)]
    for said in (known["PatientID"].lower(), f"born {spelled(known['PatientBirthDate'])}", "case of thandiwe NGOEZI"):
        if make is nifti_case and said.startswith("born"):
            said = known["PatientBirthDate"]
        assert main([*call, option, said]) == 2
        told = capsys.readouterr().err
        assert "repeats the" in told and said not in told and "ngoezi" not in told.lower()
    assert Bank.open(tmp_path / "bank").entries() == ()


def spelled(date: str) -> str:
    return f"{date[6:8]}.{date[4:6]}.{date[:4]}"


def test_words_of_medicine_and_of_the_users_own_pass(tmp_path):
    image, labels = dicom_case(tmp_path, {**patient(2), "SeriesDescription": "Abdomen portal venous"})
    call = ["--title", "abdomen, portal venous", "--body-part", "Abdomen", "--added-by", "K. Brummbaer", "--note", "ok"]
    assert main(["bank", "add", str(tmp_path / "bank"), "--image", str(image), "--labels", str(labels), *call]) == 0


def test_the_name_of_a_structure_that_repeats_the_patient_is_refused(tmp_path):
    image, _ = dicom_case(tmp_path, patient(0))
    volume, labels = phantom()
    named = type(labels.structures[0])(1, "liver Wolkenstein")
    reference = Reference(volume, type(labels)(labels.array, labels.geometry, (named, *labels.structures[1:])))
    with pytest.raises(InputError, match="name of the structure 1 repeats the PatientName"):
        Bank.create(tmp_path / "bank").add(reference, identity=identity_of(image))


def test_provenance_loses_what_repeats_the_patient(tmp_path):
    identity = identity_from([("PatientName", "Doe^Jane"), ("PatientID", "P-0815")])
    provenance = {"settings": {"structures": ["liver", "p0815 lesion"]}, "versions": {"rau": "1"}}
    entry = Bank.create(tmp_path / "bank").accept(Reference(*phantom()), provenance, identity=identity)
    assert entry.provenance.run["settings"]["structures"] == ["liver", ""]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Jane's liver", "PatientName"),
        ("DOE", "PatientName"),
        ("doe-jane", "PatientName"),
        ("p0815", ""),
        ("case 08-15-77", "PatientID"),
        ("2 January 1970", ""),
        ("1970-01-02", "PatientBirthDate"),
        ("02/01/1970", "PatientBirthDate"),
        ("does it work", ""),
        ("liver", ""),
    ],
)
def test_what_counts_as_repeating(text, found):
    known = [("PatientName", "Doe^Jane"), ("PatientID", "081577"), ("PatientBirthDate", "19700102")]
    assert identity_from(known).found_in(text) == found


def test_identity_tells_nothing_of_itself():
    assert "doe" not in repr(identity_from([("PatientName", "Doe^Jane")])).lower()
