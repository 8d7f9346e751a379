"""A file that ends too early is refused, however little is missing: SimpleITK alone reads such NIfTI without a word."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from rau.errors import InputError
from rau.volume.nifti import check_contents
from rau.volume.reading import read_volume


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_cut_off_files_are_refused_and_whole_ones_read(tmp_path, ending, kind):
    array = np.random.default_rng(0).normal(100, 20, (4, 9, 7)).astype(kind)
    whole = tmp_path / f"whole{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(array), str(whole))
    assert np.array_equal(read_volume(whole).array, array)
    content = whole.read_bytes()
    for kept in (len(content) // 2, len(content) * 9 // 10, len(content) - 12):
        part = tmp_path / f"part{ending}"
        part.write_bytes(content[:kept])
        with pytest.raises(InputError) as caught:
            read_volume(part)
        assert "part" in caught.value.message


def test_a_well_packed_file_with_a_short_content_is_cut_off(tmp_path):
    whole = tmp_path / "whole.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5)), str(whole))
    packed = tmp_path / "short.nii.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()[:-2]))
    assert check_contents(packed).cut_off
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    assert not check_contents(packed).cut_off


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [1, 2])
def test_headers_of_both_versions_and_byte_orders(tmp_path, order, version):
    nibabel = pytest.importorskip("nibabel")
    maker = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    array = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    array[0, 0, 0] = np.nan
    header = maker.header_class(endianness=order)
    header.set_data_dtype(np.dtype("f4").newbyteorder(order))
    path = tmp_path / "image.nii"
    nibabel.save(maker(array, np.eye(4), header), path)
    assert check_contents(path).not_finite == 1
    assert not check_contents(path).cut_off
    path.write_bytes(path.read_bytes()[:-1])
    assert check_contents(path).cut_off
