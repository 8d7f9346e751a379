"""Images from NIfTI, NRRD, MetaImage, PNG, JPEG and TIFF."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from builders import centre_of, phantom, rotation, signed_permutation, write_image
from rau.volume.reading import guess_modality, read_volume
from rau.volume.volume import Geometry, LabelMap

FORMATS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
directions = st.one_of(
    st.builds(signed_permutation, st.permutations((0, 1, 2)), st.tuples(*[st.sampled_from((-1, 1))] * 3)),
    st.builds(rotation, st.integers(0, 10_000)),
)


@pytest.mark.parametrize("ending", FORMATS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(direction=directions, origin=st.tuples(*[st.floats(-800, 800)] * 3), data=st.data())
def test_voxels_and_their_places_survive_every_format(tmp_path, ending, direction, origin, data):
    shape = data.draw(st.tuples(*[st.integers(2, 9)] * 3))
    spacing = data.draw(st.tuples(*[st.floats(0.3, 6.0)] * 3))
    volume, labels = phantom(Geometry(shape, spacing, origin, direction))
    read = read_volume(write_image(volume, tmp_path / f"image{ending}"))
    assert np.array_equal(read.array, volume.array) and read.array.dtype == np.int16
    index = np.argwhere(np.ones(shape))
    assert np.abs(read.geometry.to_world(index) - volume.geometry.to_world(index)).max() < 0.01
    same = LabelMap((read.array > 350).astype(np.uint8), read.geometry)
    assert np.allclose(centre_of(same, 1), centre_of(labels, 7), atol=0.01)
    assert read.spacing_known and read.source == f"image{ending}"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "float32", "float64"])
def test_types_are_kept(tmp_path, dtype):
    volume, _ = phantom()
    array = (volume.array % 100).astype(dtype)
    read = read_volume(write_image(volume.with_array(array), tmp_path / "image.nrrd"))
    assert read.array.dtype == np.dtype(dtype) and np.array_equal(read.array, array)


def test_long_integers_are_shortened(tmp_path):
    volume, _ = phantom()
    read = read_volume(write_image(volume.with_array(volume.array.astype(np.int64)), tmp_path / "image.nrrd"))
    assert read.array.dtype == np.int32 and np.array_equal(read.array, volume.array)


def test_a_4d_file_of_one_volume_is_a_volume(tmp_path):
    import SimpleITK as sitk

    array = phantom()[0].array
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(array)]), str(tmp_path / "one.nii.gz"))
    assert np.array_equal(read_volume(tmp_path / "one.nii.gz").array, array)


def test_a_2d_file_is_a_volume_of_one_slice(tmp_path):
    import SimpleITK as sitk

    array = np.random.default_rng(0).integers(0, 900, (7, 9)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.7))
    sitk.WriteImage(image, str(tmp_path / "flat.nrrd"))
    read = read_volume(tmp_path / "flat.nrrd")
    assert np.array_equal(read.array[0], array)
    assert read.geometry.spacing == (1.0, 0.7, 0.5)


def test_nifti_without_a_transform_says_nothing_of_its_spacing(tmp_path):
    import nibabel

    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
    unknown = nibabel.Nifti1Image(array, None)
    unknown.header.set_sform(None, 0)
    unknown.header.set_qform(None, 0)
    nibabel.save(unknown, tmp_path / "unknown.nii")
    assert not read_volume(tmp_path / "unknown.nii").spacing_known
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 1, 2, 1])), tmp_path / "known.nii")
    assert read_volume(tmp_path / "known.nii").spacing_known


def test_nibabel_and_the_engine_agree_on_left_and_right(tmp_path):
    """An independent writer: nibabel's world is RAS; the same voxel must come out at the same place."""
    import nibabel

    array = np.zeros((6, 7, 8), dtype=np.int16)
    array[1, 2, 3] = 500
    affine = np.array([[-2.0, 0.1, 0, 30], [0.1, 1.995, 0, -20], [0, 0, 3.0, 5], [0, 0, 0, 1]])
    affine[:3, :2] = np.linalg.qr(affine[:3, :2])[0] * [[-2.0, -2.0]]
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "other.nii.gz")
    read = read_volume(tmp_path / "other.nii.gz")
    right, front, up = (affine @ [1, 2, 3, 1])[:3]
    assert np.allclose(read.geometry.to_world(np.argwhere(read.array == 500)), [[-right, -front, up]], atol=0.01)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".jpg"])
def test_grey_pictures(tmp_path, ending):
    array = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None], 20, axis=0)
    Image.fromarray(array).save(tmp_path / f"picture{ending}")
    read = read_volume(tmp_path / f"picture{ending}")
    assert read.array.shape == (1, 20, 30) and read.array.dtype == np.uint8 and not read.spacing_known
    assert np.abs(read.array[0].astype(int) - array).max() <= (0 if ending != ".jpg" else 12)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bit_pictures_keep_their_depth(tmp_path, ending):
    array = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(array).save(tmp_path / f"deep{ending}")
    assert np.array_equal(read_volume(tmp_path / f"deep{ending}").array[0], array)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_pictures(tmp_path, mode):
    array = np.random.default_rng(0).integers(0, 255, (8, 9, len(mode))).astype(np.uint8)
    Image.fromarray(array, mode).save(tmp_path / "colour.png")
    read = read_volume(tmp_path / "colour.png")
    assert read.is_colour and read.modality == "OT" and np.array_equal(read.array[0], array[..., :3])


def test_grey_in_three_channels_is_grey(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (8, 9)).astype(np.uint8)
    Image.fromarray(np.stack([array] * 3, axis=-1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_volume(tmp_path / "grey.png").array[0], array)


def test_modality_is_guessed_from_hounsfield_units_or_told(tmp_path):
    ct, _ = phantom()
    path = write_image(ct, tmp_path / "ct.nii.gz")
    assert read_volume(path).modality == "CT"
    assert read_volume(path, modality="MR").modality == "MR"
    rng = np.random.default_rng(0)
    assert guess_modality(rng.integers(0, 1500, (9, 9, 9)).astype(np.int16)) == ""
    assert guess_modality(rng.integers(-4096, 4095, (9, 9, 9)).astype(np.int16)) == "", "an MR phase image"
    scaled = np.full((9, 9, 9), -3624, dtype=np.int16)
    scaled[3:7, 3:7, 3:7] = rng.normal(800, 900, (4, 4, 4))
    assert guess_modality(scaled) == "", "an MR brain, scaled to zero mean"
