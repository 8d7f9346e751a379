"""Whatever cannot be used: one clear line that names the file without its folder, never another exception."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from builders import phantom, write_image
from rau.errors import InputError
from rau.volume.labels import read_labels, read_segmentation
from rau.volume.reading import read_volume
from rau.volume.volume import Geometry, Volume


def refused(call, path, *words, **arguments):
    with pytest.raises(InputError) as caught:
        call(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message and os.fspath(path.parent) not in message, message
    assert caught.value.exit_code == 2
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("call", [read_volume, read_labels])
def test_paths_that_lead_nowhere(tmp_path, call):
    refused(call, tmp_path / "none.nii.gz", "none.nii.gz", "no file")
    refused(call, tmp_path / "no" / "folder.nrrd", "folder.nrrd")
    (tmp_path / "empty.nrrd").touch()
    refused(call, tmp_path / "empty.nrrd", "empty.nrrd", "empty")
    (tmp_path / "text.docx").write_text("a letter")
    refused(call, tmp_path / "text.docx", "text.docx", "ending")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("a letter")
    refused(call, tmp_path / "letters", "letters", "DICOM")
    refused(call, tmp_path / "nul\0l.nrrd")


@pytest.mark.parametrize("call", [read_volume, read_labels])
def test_links_and_special_files(tmp_path, call):
    loop = tmp_path / "loop.nrrd"
    loop.symlink_to(loop)
    refused(call, loop, "loop.nrrd", "link")
    os.mkfifo(tmp_path / "pipe.nrrd")
    refused(call, tmp_path / "pipe.nrrd", "pipe.nrrd", "neither")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    refused(call, tmp_path / "folder", "folder", "DICOM")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="this user may read everything")
def test_no_permission(tmp_path):
    path = write_image(phantom()[0], tmp_path / "secret.nrrd")
    path.chmod(0)
    refused(read_volume, path, "secret.nrrd", "permission")


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".jpg", ".dcm"])
def test_a_file_that_is_not_what_its_ending_says(tmp_path, ending):
    (tmp_path / f"fake{ending}").write_bytes(b"this is no image, whatever its name says. " * 40)
    refused(read_volume, tmp_path / f"fake{ending}", f"fake{ending}")
    refused(read_labels, tmp_path / f"fake{ending}", f"fake{ending}")


def test_numbers_that_are_none(tmp_path):
    volume, _ = phantom()
    array = volume.array.astype(np.float32)
    array[0, 0, :3], array[1, 1, 1] = np.nan, np.inf
    path = write_image(volume.with_array(array), tmp_path / "nan.nii.gz")
    refused(read_volume, path, "nan.nii.gz", "4 voxels")
    refused(read_labels, path, "nan.nii.gz", "4 voxels")
    path = write_image(volume.with_array(array), tmp_path / "nan.nrrd")
    refused(read_volume, path, "nan.nrrd", "4 voxels")
    refused(read_labels, path, "nan.nrrd", "whole numbers")


def test_constant_images(tmp_path):
    volume, _ = phantom()
    path = write_image(volume.with_array(np.full(volume.array.shape, 7, np.int16)), tmp_path / "flat.mha")
    refused(read_volume, path, "flat.mha", "constant", "7")


def test_4d_and_colour_volumes(tmp_path):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(phantom()[0].array)
    sitk.WriteImage(sitk.JoinSeries([image, image, image]), str(tmp_path / "film.nii.gz"))
    refused(read_volume, tmp_path / "film.nii.gz", "film.nii.gz", "4-D", "3 volumes")
    refused(read_labels, tmp_path / "film.nii.gz", "4-D")
    sitk.WriteImage(sitk.Compose(image, image, image), str(tmp_path / "colour.nrrd"))
    refused(read_volume, tmp_path / "colour.nrrd", "colour")
    refused(read_labels, tmp_path / "colour.nrrd", "colour")


def test_palettes_are_for_labels(tmp_path):
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "palette.png")
    refused(read_volume, tmp_path / "palette.png", "palette.png", "palette")
    assert len(read_labels(tmp_path / "palette.png").structures) == 63


def test_pictures_that_hold_several(tmp_path):
    pages = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 20)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    refused(read_volume, tmp_path / "pages.tif", "2 pictures")


def test_label_maps_that_are_none(tmp_path):
    volume, labels = phantom()
    negative = labels.array.astype(np.int16)
    negative[0, 0, 0] = -1
    path = write_image(volume.with_array(negative), tmp_path / "negative.nrrd")
    refused(read_labels, path, "negative")
    path = write_image(volume.with_array(labels.array * np.float32(0.3)), tmp_path / "soft.nrrd")
    refused(read_labels, path, "whole numbers")
    path = write_image(volume.with_array(labels.array.astype(np.int32) * 70000), tmp_path / "huge.nrrd")
    refused(read_labels, path, "65535")
    path = write_image(volume.with_array(labels.array * 0), tmp_path / "none.nii.gz")
    refused(read_labels, path, "none.nii.gz", "empty")
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "labels.jpg")
    refused(read_labels, tmp_path / "labels.jpg", "JPEG")
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (8, 8, 3)).astype(np.uint8)).save(tmp_path / "colour.png")
    refused(read_labels, tmp_path / "colour.png", "colour")


def test_broken_names_beside_a_label_map(tmp_path):
    volume, labels = phantom()
    path = write_image(volume.with_array(labels.array), tmp_path / "labels.nii.gz")
    (tmp_path / "labels.json").write_text('{"1": "liver"')
    refused(read_labels, path, "labels.json")
    (tmp_path / "labels.json").write_text('{"RepetitionTime": 2.0}')
    assert [one.name for one in read_labels(path).structures] == ["structure 1", "structure 2", "structure 7"]


def test_a_header_cannot_lead_out_of_its_folder(tmp_path):
    """A detached header names the file of its voxels: only one beside it is read."""
    path = write_image(phantom()[0], tmp_path / "image.mhd")
    text = path.read_text()
    (tmp_path / "sub").mkdir()
    for name in ("../image.raw", str(tmp_path / "image.raw"), "LIST", "%03d.raw 1 3 1"):
        moved = tmp_path / "sub" / "moved.mhd"
        moved.write_text(text.replace("image.zraw", "image.raw").replace("image.raw", name))
        refused(read_volume, moved, "moved.mhd")
    (tmp_path / "sub" / "alone.mhd").write_text(text)
    refused(read_volume, tmp_path / "sub" / "alone.mhd", "alone.mhd", "missing")
    header = write_image(phantom()[0], tmp_path / "image.nhdr").read_text()
    for line in header.splitlines():
        if line.startswith("data file:"):
            (tmp_path / "sub" / "out.nhdr").write_text(header.replace(line, "data file: ../image.raw"))
    refused(read_volume, tmp_path / "sub" / "out.nhdr", "out.nhdr")


def test_a_header_cannot_ask_for_all_the_memory(tmp_path):
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 90000 90000 90000\nencoding: gzip\nendian: little\n\n"
    (tmp_path / "bomb.nrrd").write_bytes(header.encode() + b"\x1f\x8b" + b"0" * 100)
    refused(read_volume, tmp_path / "bomb.nrrd", "bomb.nrrd")


def test_series_are_for_dicom(tmp_path):
    refused(read_volume, write_image(phantom()[0], tmp_path / "image.nrrd"), "series", series="2")


def test_geometries_that_cannot_be(tmp_path):
    header = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nspace: left-posterior-superior\n"
    for vectors in ("(1,0,0) (1,0,0) (0,0,1)", "(0,0,0) (0,1,0) (0,0,1)", "(nan,0,0) (0,1,0) (0,0,1)"):
        path = tmp_path / "odd.nrrd"
        path.write_bytes(f"{header}space directions: {vectors}\nspace origin: (0,0,0)\n\n".encode() + bytes(range(8)))
        refused(read_volume, path)


WHOLE: dict[str, bytes] = {}


def whole(ending: str, tmp_path) -> bytes:
    if ending not in WHOLE:
        path = tmp_path / f"whole{ending}"
        if ending in (".png", ".tif", ".jpg"):
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20)).astype(np.uint8)).save(path)
        elif ending == ".seg.nrrd":
            from rau.export.writing import write_labels

            write_labels(phantom()[1], path)
        else:
            write_image(phantom(Geometry((4, 5, 6)))[0], path)
        WHOLE[ending] = path.read_bytes()
    return WHOLE[ending]


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".jpg", ".seg.nrrd"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
@example(share=0.999)
def test_files_cut_off_anywhere(tmp_path, ending, share):
    content = whole(ending, tmp_path)
    path = tmp_path / f"cut{ending}"
    path.write_bytes(content[: int(share * len(content))])
    for call in (read_volume, read_segmentation):
        try:
            call(path)
        except InputError as error:
            assert f"cut{ending}" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha", ".seg.nrrd", ".png"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_files_with_a_wrong_byte(tmp_path, ending, place, byte):
    content = bytearray(whole(ending, tmp_path))
    content[int(place * min(len(content), 700))] = byte
    path = tmp_path / f"wrong{ending}"
    path.write_bytes(content)
    for call in (read_volume, read_segmentation):
        try:
            call(path)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".jpg"])
def test_nothing_is_printed(tmp_path, ending):
    """Libraries in C write to the process's own stderr: a fresh process shows all of it."""
    path = tmp_path / f"half{ending}"
    content = whole(ending, tmp_path)
    path.write_bytes(content[: len(content) * 2 // 3])
    code = (
        "import sys\nfrom rau.errors import InputError\nfrom rau.volume.reading import read_volume\n"
        "try:\n    read_volume(sys.argv[1])\nexcept InputError:\n    sys.exit(2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode in (0, 2)
    assert done.stdout == b"" and done.stderr == b""


def test_an_image_must_fit_its_grid():
    with pytest.raises(InputError):
        Volume(np.zeros((2, 3, 4)), Geometry((2, 3, 5)))
    with pytest.raises(InputError):
        Geometry((2, 3, 4), (1.0, 0.0, 1.0))
