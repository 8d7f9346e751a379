"""The picture of a result."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from builders import phantom, signed_permutation
from rau.errors import InputError
from rau.export.overlay import overlay_png
from rau.volume.volume import Geometry, LabelMap

RED = (255, 0, 0)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def where(array, color):
    return np.argwhere(np.abs(array - color).max(axis=2) < 3)


@pytest.mark.parametrize("order", [((2, 1, 0), (1, 1, 1)), ((2, 1, 0), (-1, -1, -1)), ((2, 1, 0), (1, -1, -1))])
def test_the_patients_left_is_on_the_right_and_the_front_above(tmp_path, order):
    volume, labels = phantom(Geometry((8, 30, 30), (5.0, 2.0, 2.0), direction=signed_permutation(*order)))
    drawn = pixels(overlay_png(volume, labels, tmp_path / "o.png", slices=1, tile=200))
    picture = drawn[10:210, 10:210]
    liver, kidney = (np.array(one.color) * 255 for one in labels.structures[:2])
    assert where(picture, kidney)[:, 1].mean() > where(picture, liver)[:, 1].mean()
    assert where(picture, kidney)[:, 0].mean() > where(picture, liver)[:, 0].mean(), "the kidney lies at the back"


def test_slices_legend_and_title(tmp_path):
    volume, labels = phantom()
    small = pixels(overlay_png(volume, labels, tmp_path / "a.png", slices=1, tile=120))
    large = pixels(overlay_png(volume, labels, tmp_path / "b.png", slices=6, tile=120, title="A title"))
    assert large.shape[0] > small.shape[0] and large.shape[1] > small.shape[1]
    for one in labels.structures:
        swatch = where(large[:, -125:], np.round(np.array(one.color) * 255))
        assert len(swatch) >= 100, f"{one.name} in the legend"


def test_head_is_up_where_slices_were_taken_from_the_front(tmp_path):
    volume, labels = phantom(Geometry((30, 8, 30), (2.0, 6.0, 2.0)))
    drawn = pixels(overlay_png(volume, labels, tmp_path / "o.png", slices=8, tile=100))
    marker = where(drawn[:, :330], RED)
    assert len(marker) and (marker[:, 0] % 110 < 55).mean() > 0.9, "the marker lies at the top of the body"


def test_colour_pictures_and_empty_results(tmp_path):
    colour = np.random.default_rng(0).integers(0, 255, (1, 40, 50, 3)).astype(np.uint8)
    grid = Geometry((1, 40, 50))
    volume, labels = phantom(grid)
    from rau.volume.volume import Volume

    path = overlay_png(
        Volume(colour, grid, "OT"), LabelMap(labels.array * 0, grid, labels.structures), tmp_path / "o.png"
    )
    assert pixels(path).std() > 20


def test_what_cannot_be_drawn(tmp_path):
    volume, labels = phantom()
    with pytest.raises(InputError, match="PNG"):
        overlay_png(volume, labels, tmp_path / "o.gif")
    with pytest.raises(InputError, match="another grid"):
        overlay_png(volume, phantom(Geometry((3, 3, 3)))[1], tmp_path / "o.png")
    with pytest.raises(InputError, match="no folder"):
        overlay_png(volume, labels, tmp_path / "none" / "o.png")
    assert list(tmp_path.iterdir()) == []
