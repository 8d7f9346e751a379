"""Label maps and segmentations with their names; label maps on another grid than their image."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from builders import LIVER, STRUCTURES, centre_of, phantom, rotation, write_image
from rau.errors import InputError
from rau.volume.labels import read_labels, read_segmentation
from rau.volume.resampling import labels_on_grid
from rau.volume.terminology import color_of, parsed
from rau.volume.volume import Geometry, LabelMap, Structure


def plain(tmp_path, name="labels.nii.gz", array=None):
    volume, labels = phantom()
    return write_image(volume.with_array(labels.array if array is None else array), tmp_path / name)


def test_names_beside_a_label_map(tmp_path):
    path = plain(tmp_path)
    assert [one.name for one in read_labels(path).structures] == ["structure 1", "structure 2", "structure 7"]
    (tmp_path / "labels.json").write_text(json.dumps({"1": "liver", "7": "marker"}))
    assert [one.name for one in read_labels(path).structures] == ["liver", "structure 2", "marker"]
    entry = {"name": "Leber", "color": [1, 0.5, 0], "terminology": LIVER}
    (tmp_path / "labels.json").write_text(json.dumps({"structures": {"1": entry, "2": "Niere", "x": 3}}))
    first, second, _ = read_labels(path).structures
    assert first == Structure(1, "Leber", (1.0, 0.5, 0.0), LIVER) and second.name == "Niere"


def test_values_are_kept_and_types_are_small(tmp_path):
    labels = read_labels(plain(tmp_path, array=phantom()[1].array.astype(np.float32) * 100))
    assert labels.array.dtype == np.uint16 and [one.value for one in labels.structures] == [100, 200, 700]
    assert read_labels(plain(tmp_path)).array.dtype == np.uint8


def test_colours_are_fixed_and_differ():
    colors = [color_of(value) for value in range(1, 41)]
    assert len(set(colors)) == 40 and all(0 <= c <= 1 for color in colors for c in color)


def test_index_pictures_have_the_palettes_colours(tmp_path):
    array = np.zeros((6, 8), dtype=np.uint8)
    array[1:3], array[4:] = 1, 3
    picture = Image.fromarray(array)
    picture.putpalette([0, 0, 0, 255, 0, 51, 9, 9, 9, 0, 102, 255])
    picture.save(tmp_path / "labels.png")
    labels = read_labels(tmp_path / "labels.png")
    assert np.array_equal(labels.array[0], array)
    assert [one.color for one in labels.structures] == [(1.0, 0.0, 0.2), (0.0, 0.4, 1.0)]


def test_a_label_picture_takes_the_place_of_its_image(tmp_path):
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "labels.png")
    image, _ = phantom(Geometry((1, 9, 9), (5.0, 0.5, 0.5), (10.0, 20.0, 30.0)))
    assert read_labels(tmp_path / "labels.png", image=image).geometry.matches(image.geometry)


def seg_nrrd(path, layers, segments, geometry=None):
    """A .seg.nrrd as Slicer writes it, through pynrrd: an independent writer."""
    import nrrd

    data = np.stack([layer.transpose(2, 1, 0) for layer in layers]) if len(layers) > 1 else layers[0].transpose(2, 1, 0)
    vectors = [[2.0, 0, 0], [0, 1.5, 0], [0, 0, 3.0]]
    header = {
        "space": "left-posterior-superior",
        "space origin": [-20.0, 30.0, 100.0],
        "space directions": ([[np.nan] * 3] if len(layers) > 1 else []) + vectors,
        "kinds": (["list"] if len(layers) > 1 else []) + ["domain"] * 3,
    }
    for number, fields in enumerate(segments):
        header.update({f"Segment{number}_{key}": value for key, value in fields.items()})
    nrrd.write(str(path), data, header)
    path.write_bytes(
        path.read_bytes().replace(b"Leber #", "Leber ä".encode())
    )  # pynrrd writes ASCII only, Slicer UTF-8
    return path


def test_layers_are_merged_and_overlaps_told(tmp_path):
    _, labels = phantom()
    first, second = (labels.array == 1).astype(np.uint8), np.zeros_like(labels.array)
    second[4:6] = 1
    overlap = np.count_nonzero(first[4:6])
    segments = [
        {"ID": "Segment_1", "Name": "Leber #", "Color": "0.8 0.5 0.4", "Layer": "0", "LabelValue": "1",
         "Tags": f"TerminologyEntry:{LIVER}|Segmentation.Status:completed|"},
        {"ID": "Segment_2", "Name": "slab", "Color": "0,1 0,2 0,3", "Layer": "1", "LabelValue": "1"},
    ]  # fmt: skip
    read, notes = read_segmentation(seg_nrrd(tmp_path / "two.seg.nrrd", [first, second], segments))
    assert [(one.value, one.name) for one in read.structures] == [(1, "Leber ä"), (2, "slab")]
    assert read.structures[0].terminology == LIVER and np.allclose(read.structures[0].color, (0.8, 0.5, 0.4))
    assert read.structures[1].color == color_of(2), "a colour that cannot be read"
    assert np.array_equal(read.array == 2, second == 1), "the later segment wins"
    assert len(notes) == 1 and f"{overlap} voxels" in notes[0]
    assert np.allclose(read.geometry.spacing, (3.0, 1.5, 2.0)) and np.allclose(read.geometry.origin, (-20, 30, 100))


def test_distinct_label_values_over_layers_are_kept(tmp_path):
    _, labels = phantom()
    layers = [(labels.array == 1) * np.uint8(5), (labels.array == 2) * np.uint8(9)]
    segments = [{"Name": "a", "Layer": "0", "LabelValue": "5"}, {"Name": "b", "Layer": "1", "LabelValue": "9"}]
    read, notes = read_segmentation(seg_nrrd(tmp_path / "x.seg.nrrd", layers, segments))
    assert [one.value for one in read.structures] == [5, 9] and not notes


def test_empty_and_hidden_segments_are_left_out_and_told(tmp_path):
    _, labels = phantom()
    liver = (labels.array == 1).astype(np.uint8)
    segments = [{"Name": n, "Layer": str(k), "LabelValue": "1"} for k, n in enumerate(("under", "nothing", "over"))]
    read, notes = read_segmentation(seg_nrrd(tmp_path / "x.seg.nrrd", [liver, liver * 0, liver], segments))
    assert [one.name for one in read.structures] == ["over"]
    assert any("nothing" in note for note in notes) and any("under" in note for note in notes)
    with pytest.raises(InputError, match="empty"):
        read_segmentation(seg_nrrd(tmp_path / "y.seg.nrrd", [liver * 0], segments[:1]))


def test_a_segment_that_points_nowhere(tmp_path):
    _, labels = phantom()
    path = seg_nrrd(tmp_path / "x.seg.nrrd", [labels.array], [{"Name": "a", "Layer": "4", "LabelValue": "1"}])
    with pytest.raises(InputError, match="not there"):
        read_segmentation(path)


def test_terminology_in_parts():
    entry = parsed(LIVER)
    assert entry is not None and entry.type.meaning == "Liver" and entry.serialised() == LIVER
    assert parsed("") is None and parsed("a~b~c") is None


@given(st.integers(0, 1000), st.tuples(*[st.integers(-3, 3)] * 3))
def test_a_cropped_label_map_is_placed_voxel_by_voxel(seed, shift):
    """As Slicer saves segmentations: a part of the image's grid."""
    geometry = Geometry((9, 10, 11), (2.0, 1.0, 1.5), (5.0, 6.0, 7.0), rotation(seed))
    _, labels = phantom(geometry)
    x, y, z = geometry.to_world(np.array([shift]))[0]
    moved = LabelMap(labels.array, Geometry((9, 10, 11), geometry.spacing, (x, y, z), geometry.direction), STRUCTURES)
    try:
        placed, said = labels_on_grid(moved, geometry)
    except InputError as error:
        assert "nothing would be left" in str(error)
        return
    expected = np.zeros_like(labels.array)
    index = np.argwhere(labels.array)
    inside = np.all((index + shift >= 0) & (index + shift < geometry.shape), axis=1)
    expected[tuple((index + shift)[inside].T)] = labels.array[tuple(index[inside].T)]
    assert np.array_equal(placed.array, expected)
    assert (said == "") == (shift == (0, 0, 0) or bool(inside.all()))


def test_another_grid_is_resampled_and_said():
    _, labels = phantom(Geometry((20, 28, 24), (1.5, 0.75, 1.0), (-20.0, 30.0, 100.0)))
    coarse = Geometry((10, 14, 12), (3.0, 1.5, 2.0), (-19.8, 30.3, 100.4))
    placed, said = labels_on_grid(labels, coarse)
    assert "resampled" in said and placed.geometry is coarse
    for value in (1, 2, 7):
        assert np.abs(centre_of(placed, value) - centre_of(labels, value)).max() < 1.0


def test_labels_that_lie_elsewhere_or_would_vanish():
    _, labels = phantom()
    with pytest.raises(InputError, match="do not overlap"):
        labels_on_grid(labels, Geometry((10, 14, 12), (3.0, 1.5, 2.0), (500.0, 30.0, 100.0)))
    half = Geometry((10, 14, 5), (3.0, 1.5, 2.0), (-20.0, 30.0, 100.0))
    with pytest.raises(InputError, match="left kidney"):
        labels_on_grid(labels, half)
    dot = labels.array * 0
    dot[5, 6, 7] = 2
    with pytest.raises(InputError, match="left kidney"):
        labels_on_grid(
            LabelMap(dot, labels.geometry, STRUCTURES[1:2]), Geometry((2, 3, 2), (15, 7, 12), (-20, 30, 100))
        )


def test_pictures_of_another_size():
    labels = LabelMap(np.ones((1, 8, 8), np.uint8), Geometry((1, 8, 8)), STRUCTURES[:1])
    with pytest.raises(InputError, match=r"8 x 8 pixels, its image 9 x 8"):
        labels_on_grid(labels, Geometry((1, 9, 8)))


def test_what_is_lost_is_said():
    _, labels = phantom()
    cut = Geometry((6, 14, 12), (3.0, 1.5, 2.0), (-20.0, 30.0, 112.0))
    said = labels_on_grid(labels, cut)[1]
    assert "voxel by voxel" in said and "% of the labelled volume" in said
