"""Label maps out: exactly on their grid, whole or not at all, left and right where they were."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import LIVER, STRUCTURES, centre_of, phantom, rotation, signed_permutation, write_series
from rau.errors import InputError
from rau.export.writing import check_output, write_labels
from rau.volume.dicom import series_files
from rau.volume.labels import read_labels
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap, Structure

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd")
directions = st.one_of(
    st.builds(signed_permutation, st.permutations((0, 1, 2)), st.tuples(*[st.sampled_from((-1, 1))] * 3)),
    st.builds(rotation, st.integers(0, 10_000)),
)
geometries = st.builds(
    Geometry,
    st.tuples(*[st.integers(3, 9)] * 3),
    st.tuples(*[st.floats(0.3, 6.0)] * 3),
    st.tuples(*[st.floats(-800, 800)] * 3),
    directions,
)


@pytest.mark.parametrize("ending", VOLUMES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries)
def test_on_the_targets_grid_for_any_direction(tmp_path, ending, geometry):
    _, labels = phantom(geometry)
    read = read_labels(write_labels(labels, tmp_path / f"out{ending}"))
    assert np.array_equal(read.array, labels.array)
    index = np.argwhere(np.ones(geometry.shape))
    assert np.abs(read.geometry.to_world(index) - geometry.to_world(index)).max() < 0.01
    assert np.allclose(centre_of(read, 7), centre_of(labels, 7), atol=0.01), "the marker at the patient's left"
    assert labels_on_grid(read, geometry)[1] == ""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(geometry=geometries)
def test_dicom_seg_on_the_targets_grid_for_any_direction(tmp_path, geometry):
    _, labels = phantom(geometry)
    read = read_labels(write_labels(labels, tmp_path / "out.dcm"))
    placed, _ = labels_on_grid(read, geometry)
    assert [one.name for one in read.structures] == [one.name for one in labels.structures]
    for number, one in enumerate(labels.structures, start=1):
        assert np.array_equal(placed.array == number, labels.array == one.value)
        assert np.allclose(centre_of(read, number), centre_of(labels, one.value), atol=0.01)


def test_nibabel_finds_the_marker_at_the_patients_left(tmp_path):
    """An independent reader, whose world is RAS: left is negative there."""
    import nibabel

    _, labels = phantom()
    image = nibabel.load(write_labels(labels, tmp_path / "out.nii.gz"))
    for value in (1, 2, 7):
        points = nibabel.affines.apply_affine(image.affine, np.argwhere(np.asarray(image.dataobj) == value))
        x, y, z = points.mean(0)
        assert np.allclose((-x, -y, z), centre_of(labels, value), atol=0.01)


@pytest.mark.parametrize(("ending", "full"), [(".seg.nrrd", True), (".dcm", True), (".nrrd", False)])
def test_names_colours_and_codes(tmp_path, ending, full):
    _, labels = phantom()
    read = read_labels(write_labels(labels, tmp_path / f"out{ending}"))
    for before, after in zip(labels.structures, read.structures, strict=True):
        if not full:
            assert (after.value, after.name) == (before.value, f"structure {before.value}")
            continue
        assert after.name == before.name
        assert np.allclose(after.color, before.color, atol=0.012)
        if before.terminology:
            assert after.terminology == before.terminology


def test_types_are_small_and_values_kept(tmp_path):
    _, labels = phantom()
    wide = LabelMap(labels.array.astype(np.int64) * 300, labels.geometry, ())
    for ending, kind in ((".nii.gz", np.uint16), (".seg.nrrd", np.uint16)):
        read = read_labels(write_labels(wide, tmp_path / f"wide{ending}"))
        assert read.array.dtype == kind and [one.value for one in read.structures] == [300, 600, 2100]
    import SimpleITK as sitk

    narrow = sitk.ReadImage(str(write_labels(labels, tmp_path / "narrow.mha")))
    assert narrow.GetPixelID() == sitk.sitkUInt8
    with pytest.raises(InputError, match="65535"):
        write_labels(LabelMap(labels.array.astype(np.int64) * 70000, labels.geometry), tmp_path / "no.nii.gz")


def test_index_png(tmp_path):
    from PIL import Image

    _, labels = phantom(Geometry((1, 20, 30)))
    path = write_labels(labels, tmp_path / "out.png")
    with Image.open(path) as picture:
        assert picture.mode == "P" and np.array_equal(np.asarray(picture), labels.array[0])
    read = read_labels(path)
    assert np.array_equal(read.array, labels.array)
    assert all(
        np.allclose(a.color, b.color, atol=0.003) for a, b in zip(read.structures, labels.structures, strict=True)
    )


def test_provenance_is_in_the_header(tmp_path):
    import SimpleITK as sitk

    _, labels = phantom()
    for ending in (".seg.nrrd", ".nrrd", ".mha"):
        path = write_labels(labels, tmp_path / f"out{ending}", provenance={"model": "rau-mini", "seed": 3})
        assert json.loads(sitk.ReadImage(str(path)).GetMetaData("RAU_Provenance")) == {"model": "rau-mini", "seed": 3}


def test_dicom_seg_refers_to_its_series(tmp_path):
    import highdicom as hd
    import pydicom

    volume, labels = phantom(
        Geometry((6, 9, 8), (2.0, 0.8, 0.8), (-5.0, 9.0, 70.0), signed_permutation((2, 1, 0), (-1, -1, 1)))
    )
    write_series(tmp_path / "ct", volume)
    target, files = read_volume(tmp_path / "ct"), series_files(tmp_path / "ct")
    placed, _ = labels_on_grid(labels, target.geometry)
    path = write_labels(
        placed, tmp_path / "out.dcm", image=target, source_dicom=files, provenance={"model": "rau-mini", "nested": {}}
    )
    header, segmentation = pydicom.dcmread(files[0]), hd.seg.segread(path)
    assert segmentation.PatientID == header.PatientID and segmentation.StudyInstanceUID == header.StudyInstanceUID
    assert segmentation.FrameOfReferenceUID == header.FrameOfReferenceUID
    referred = {str(uid) for _, _, uid in segmentation.get_source_image_uids()}
    assert referred <= {str(pydicom.dcmread(file).SOPInstanceUID) for file in files} and referred
    stored = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    assert set(np.unique(stored.array)) == {0, 1, 2, 3}
    read, said = labels_on_grid(read_labels(path), target.geometry)
    assert np.array_equal(read.array == 3, placed.array == 7)
    description = segmentation.get_segment_description(1)
    assert description.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert "rau-mini" in str(description.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters)


def test_dicom_seg_that_stands_alone_refers_to_nothing(tmp_path):
    import pydicom

    volume, labels = phantom()
    dataset = pydicom.dcmread(write_labels(labels, tmp_path / "out.dcm", image=volume))
    text = str(dataset)
    assert "Referenced SOP Instance UID" not in text and "Derivation Image Sequence" not in text
    assert dataset.PatientName == "" and dataset.PatientID == "" and dataset.SegmentationType == "BINARY"


def test_dicom_seg_of_a_series_without_identifiers(tmp_path):
    volume, labels = phantom()
    write_series(tmp_path / "ct", volume, identified=False)
    path = write_labels(labels, tmp_path / "out.dcm", source_dicom=series_files(tmp_path / "ct"))
    assert len(read_labels(path).structures) == 3


def fractional(tmp_path, kind):
    import highdicom as hd
    import pydicom

    volume, labels = phantom()
    sources = [pydicom.dcmread(file) for file in write_series(tmp_path / "ct", volume, shuffled=False)]
    code = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    description = hd.seg.SegmentDescription(1, "soft", code, code, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
    array = (labels.array == 1).astype(np.float32) * 0.8 + (labels.array == 2) * 0.3
    if kind == "LABELMAP":
        array = (labels.array == 1).astype(np.uint8)
    segmentation = hd.seg.Segmentation(
        sources, array, kind, [description], hd.UID(), 1, hd.UID(), 1, "maker", "model", "1", "1"
    )
    segmentation.save_as(tmp_path / "soft.dcm")
    return labels


@pytest.mark.parametrize("kind", ["FRACTIONAL", "LABELMAP"])
def test_other_kinds_of_dicom_seg_are_read(tmp_path, kind):
    labels = fractional(tmp_path, kind)
    placed, _ = labels_on_grid(read_labels(tmp_path / "soft.dcm"), labels.geometry)
    assert np.array_equal(placed.array == 1, labels.array == 1)


def test_a_folder_with_one_seg_among_images(tmp_path):
    fractional(tmp_path, "FRACTIONAL")
    assert read_labels(tmp_path).structures[0].name == "soft"
    (tmp_path / "second.dcm").write_bytes((tmp_path / "soft.dcm").read_bytes())
    with pytest.raises(InputError, match="2 DICOM SEG"):
        read_labels(tmp_path)
    with pytest.raises(InputError, match="no DICOM SEG"):
        read_labels(tmp_path / "ct")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("out.docx", "ending"),
        ("out", "ending"),
        ("out.png", "one slice"),
        ("none/out.nrrd", "no folder"),
        ("dir.mha", "is a folder"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_work(tmp_path, name, words):
    (tmp_path / "dir.mha").mkdir()
    with pytest.raises(InputError, match=words) as caught:
        check_output(tmp_path / name, is_single_slice=False)
    assert os.fspath(tmp_path) not in str(caught.value)
    with pytest.raises(InputError, match=words):
        write_labels(phantom()[1], tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.mha"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="permission"):
        check_output(tmp_path / "out.nrrd", is_single_slice=False)
    tmp_path.chmod(0o700)


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    """/dev/full refuses every byte: what was there before stays, nothing half written is left."""
    from rau.export.writing import replaced

    output = tmp_path / "out.nrrd"
    output.write_bytes(b"before")
    with pytest.raises(InputError, match="disk is full"), replaced(output) as temporary:
        temporary.write_bytes(b"half")
        if not os.path.exists("/dev/full"):
            pytest.skip("this system has no /dev/full")
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
    assert output.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["out.nrrd"]


def test_an_error_while_writing_leaves_nothing(tmp_path):
    with pytest.raises(InputError):
        write_labels(LabelMap(phantom()[1].array * 0, phantom()[1].geometry, STRUCTURES), tmp_path / "out.dcm")
    assert list(tmp_path.iterdir()) == []


def test_odd_names_survive(tmp_path):
    _, labels = phantom()
    names = ("Größe | ~odd~ ^x^", "a" * 200, "line\nbreak := yes")
    structures = tuple(Structure(v, n, (0, 0.5, 1), LIVER) for v, n in zip((1, 2, 7), names, strict=True))
    odd = LabelMap(labels.array, labels.geometry, structures)
    for ending in (".seg.nrrd", ".dcm"):
        read = read_labels(write_labels(odd, tmp_path / f"odd{ending}"))
        assert len(read.structures) == 3 and read.structures[0].name == names[0]
        assert read.structures[0].terminology == LIVER
