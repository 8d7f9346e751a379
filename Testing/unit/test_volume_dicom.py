"""DICOM series written on the fly: order, Hounsfield units, several series, broken stacks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import centre_of, phantom, rotation, signed_permutation, write_series
from rau.errors import InputError
from rau.volume.dicom import find_series, series_files
from rau.volume.orientation import canonical
from rau.volume.reading import read_volume
from rau.volume.resampling import labels_on_grid
from rau.volume.volume import Geometry, LabelMap

directions = st.one_of(
    st.builds(signed_permutation, st.permutations((0, 1, 2)), st.tuples(*[st.sampled_from((-1, 1))] * 3)),
    st.builds(rotation, st.integers(0, 1000)),
)


def secrets_kept(error: InputError) -> None:
    assert "\n" not in str(error) and "secret" not in str(error).lower()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(direction=directions, shuffled=st.booleans(), number=st.integers(0, 1 << 30))
def test_a_series_of_any_orientation_and_order(tmp_path, direction, shuffled, number):
    """Voxels, Hounsfield units and places, whichever way the files are numbered and the stack runs."""
    volume, labels = phantom(Geometry((5, 8, 7), (2.5, 0.75, 0.6), (-33.0, 12.0, 140.0), direction))
    folder = tmp_path / f"{number}-{shuffled}-{len(list(tmp_path.iterdir()))}"
    write_series(folder, volume, shuffled=shuffled)
    read = read_volume(folder)
    assert read.modality == "CT" and read.array.dtype == np.int16
    marked = LabelMap((read.array > 350).astype(np.uint8), read.geometry)
    assert np.allclose(centre_of(marked, 1), centre_of(labels, 7), atol=0.01)
    placed, said = labels_on_grid(labels, read.geometry)
    assert said == ""
    back, _ = labels_on_grid(placed, labels.geometry)
    assert np.array_equal(back.array, labels.array)
    here, _, _ = canonical(read.array, read.geometry)
    there, _, _ = canonical(volume.array, volume.geometry)
    assert np.array_equal(here, there)


def test_rescale_slope_gives_hounsfield_units(tmp_path):
    volume, _ = phantom()
    write_series(tmp_path / "a", volume.with_array(volume.array // 2 * 2), slope=2.0, intercept=-1024.0)
    assert np.array_equal(read_volume(tmp_path / "a").array, volume.array // 2 * 2)
    write_series(tmp_path / "b", volume, slope=0.5, intercept=-1024.25)
    read = read_volume(tmp_path / "b")
    assert read.array.dtype == np.float32 and np.abs(read.array - volume.array).max() <= 0.5


def test_several_series_are_listed_and_one_is_picked(tmp_path):
    ct, _ = phantom()
    mr, _ = phantom(Geometry((4, 6, 5), (4.0, 1.0, 1.0)), "MR")
    write_series(tmp_path / "disc" / "one", ct, number=3)
    write_series(tmp_path / "disc" / "two", mr.with_array(mr.array + 1024), number=7, modality="MR", intercept=0.0)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "disc")
    secrets_kept(caught.value)
    message = str(caught.value)
    assert "series 3 (CT, 10 files" in message and "series 7 (MR, 4 files" in message and "--series" in message
    assert str(tmp_path) not in message
    assert read_volume(tmp_path / "disc", series="3").array.shape == ct.array.shape
    assert read_volume(tmp_path / "disc", series="7").modality == "MR"
    uid = find_series(tmp_path / "disc")[1].uid
    assert read_volume(tmp_path / "disc", series=uid).modality == "MR"
    assert read_volume(tmp_path / "disc", series=uid[-8:]).modality == "MR"
    with pytest.raises(InputError, match="No series 5"):
        read_volume(tmp_path / "disc", series="5")


def test_two_series_of_one_number_are_picked_by_uid(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / name, phantom()[0], number=2)
    with pytest.raises(InputError, match="2 series"):
        read_volume(tmp_path, series="2")
    assert read_volume(tmp_path, series=find_series(tmp_path)[0].uid).array.shape == (10, 14, 12)


def test_one_file_is_one_slice(tmp_path):
    volume, _ = phantom()
    files = write_series(tmp_path / "s", volume, shuffled=False)
    read = read_volume(files[4])
    assert np.array_equal(read.array, volume.array[4:5])
    assert np.allclose(read.geometry.origin, volume.geometry.to_world(np.array([[4, 0, 0]]))[0])


def test_copies_of_a_slice_count_once(tmp_path):
    files = write_series(tmp_path / "s", phantom()[0])
    (tmp_path / "s" / "copy").write_bytes(files[0].read_bytes())
    assert read_volume(tmp_path / "s").array.shape == (10, 14, 12)


def test_series_without_instance_uids(tmp_path):
    volume, _ = phantom()
    write_series(tmp_path / "s", volume, identified=False)
    assert np.array_equal(read_volume(tmp_path / "s").array, volume.array)


def test_files_come_in_slice_order(tmp_path):
    volume, _ = phantom()
    written = write_series(tmp_path / "s", volume)
    assert series_files(tmp_path / "s") == tuple(written)


def test_other_files_in_the_folder_do_not_matter(tmp_path):
    write_series(tmp_path / "s", phantom()[0])
    (tmp_path / "s" / "readme.txt").write_text("hello")
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert read_volume(tmp_path / "s").array.shape == (10, 14, 12)


@pytest.mark.parametrize(("skip", "words"), [((4,), "1 slice is missing"), ((3, 4, 7), "3 slices are missing")])
def test_missing_slices(tmp_path, skip, words):
    write_series(tmp_path / "s", phantom()[0], skip=skip)
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / "s")
    secrets_kept(caught.value)


def bent(volume, offsets):
    geometry = volume.geometry
    places = geometry.to_world(np.array([[k, 0, 0] for k in range(geometry.shape[0])]))
    return places + np.asarray(offsets)


def test_uneven_slices(tmp_path):
    volume, _ = phantom()
    jitter = np.zeros((10, 3))
    jitter[5, 2] = 0.6
    write_series(tmp_path / "bad", volume, positions=bent(volume, jitter))
    with pytest.raises(InputError, match="unevenly"):
        read_volume(tmp_path / "bad")
    jitter[5, 2] = 0.05
    write_series(tmp_path / "good", volume, positions=bent(volume, jitter))
    assert np.isclose(read_volume(tmp_path / "good").geometry.spacing[0], 3.0)


def test_tilted_gantry(tmp_path):
    volume, _ = phantom()
    drift = np.outer(np.arange(10), [0.0, 3.0 * np.tan(np.deg2rad(12)), 0.0])
    write_series(tmp_path / "s", volume, positions=bent(volume, drift))
    with pytest.raises(InputError, match=r"sheared by 12\.0 degrees"):
        read_volume(tmp_path / "s")


def test_time_points_at_one_position(tmp_path):
    import pydicom
    from pydicom.uid import generate_uid

    for file in write_series(tmp_path / "s", phantom()[0]):
        dataset = pydicom.dcmread(file)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(file.with_name(file.name + "t2"))
    with pytest.raises(InputError, match="4-D"):
        read_volume(tmp_path / "s")


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("Rows", 7, "differ in size"),
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "several directions"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "unusable"),
        ("PixelSpacing", [9.0, 9.0], "pixel size"),
        ("PixelSpacing", [0.0, 1.0], "unusable"),
        ("ImagePositionPatient", None, "where they lie"),
    ],
)
def test_slices_that_do_not_belong_together(tmp_path, keyword, value, words):
    import pydicom

    files = write_series(tmp_path / "s", phantom()[0])
    dataset = pydicom.dcmread(files[3])
    setattr(dataset, keyword, value)
    dataset.save_as(files[3])
    with pytest.raises(InputError, match=words) as caught:
        read_volume(tmp_path / "s")
    secrets_kept(caught.value)


def test_pixels_that_are_cut_off(tmp_path):
    files = write_series(tmp_path / "s", phantom()[0])
    files[2].write_bytes(files[2].read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path / "s")


def test_an_x_ray_without_a_position(tmp_path):
    import pydicom

    volume, _ = phantom(Geometry((1, 20, 30), (1.0, 0.15, 0.15)))
    file = write_series(tmp_path / "s", volume)[0]
    dataset = pydicom.dcmread(file)
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME1"
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.save_as(file)
    read = read_volume(file)
    assert read.modality == "XR" and read.spacing_known and read.geometry.spacing[1:] == (0.15, 0.15)
    assert np.corrcoef(read.array.ravel(), volume.array.ravel())[0, 1] < -0.999, "low is white: inverted"
    del dataset.PixelSpacing
    dataset.save_as(file)
    assert not read_volume(file).spacing_known


def test_compressed_pixels(tmp_path):
    import pydicom
    from pydicom.uid import RLELossless

    volume, _ = phantom()
    for file in write_series(tmp_path / "s", volume):
        dataset = pydicom.dcmread(file)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    assert np.array_equal(read_volume(tmp_path / "s").array, volume.array)


@pytest.mark.parametrize("step", [1, -1])
def test_multi_frame_images(tmp_path, step):
    """An enhanced CT, made of a classic series by highdicom; its frames may run either way."""
    import highdicom as hd
    import pydicom

    volume, _ = phantom(Geometry((6, 9, 7), (2.5, 0.75, 0.6), (-33.0, 12.0, 140.0), rotation(3)))
    headers = [pydicom.dcmread(file) for file in write_series(tmp_path / "s", volume, shuffled=step < 0)]
    enhanced = hd.legacy.LegacyConvertedEnhancedCTImage(headers, hd.UID(), 5, hd.UID(), 1)
    (tmp_path / "e").mkdir()
    enhanced.save_as(tmp_path / "e" / "frames.dcm")
    read = read_volume(tmp_path / "e")
    assert read.modality == "CT"
    ours, grid, _ = canonical(volume.array, volume.geometry)
    theirs, other, _ = canonical(read.array, read.geometry)
    assert np.array_equal(ours, theirs) and grid.matches(other)


def test_a_segmentation_is_no_image(tmp_path):
    from rau.export.writing import write_labels

    path = write_labels(phantom()[1], tmp_path / "labels.dcm")
    with pytest.raises(InputError, match="no DICOM image"):
        read_volume(path)


def test_the_shared_dicom_case(shared_data):
    """A real CT series and its label map on a flipped grid: placed by geometry, bone lies on bone."""
    from rau.volume.labels import read_labels

    case = shared_data / "totalsegmentator" / "case_003"
    volume, labels = read_volume(case / "dicom"), read_labels(case / "labels.nii.gz")
    assert not labels.geometry.matches(volume.geometry)
    placed, said = labels_on_grid(labels, volume.geometry)
    assert said == "" and np.count_nonzero(placed.array) == np.count_nonzero(labels.array)
    liver, spleen, vertebra = (volume.array[placed.array == value] for value in (5, 1, 32))
    assert 60 < np.median(liver) < 200 and liver.std() < 60 and 60 < np.median(spleen) < 250
    assert np.percentile(vertebra, 90) > 200
    assert centre_of(placed, 5)[0] < centre_of(placed, 1)[0], "the liver is at the patient's right, the spleen left"
