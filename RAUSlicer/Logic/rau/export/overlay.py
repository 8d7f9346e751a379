"""A picture of a result: a few slices of the target with the structures outlined in colour, and a legend."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.export.writing import check_writable, replaced
from rau.volume.files import ending_of
from rau.volume.labels import values_of
from rau.volume.orientation import acquisition_axis, canonical
from rau.volume.volume import LabelMap, Structure, Volume
from rau.volume.window import to_uint8

_PAPER, _INK, _MARGIN = (20, 22, 26), (228, 230, 235), 10
_FILL, _LINE = 0.22, 20


def overlay_png(
    volume: Volume,
    labels: LabelMap,
    path: str | os.PathLike[str],
    *,
    slices: int = 6,
    tile: int = 256,
    title: str = "",
    window: tuple[float, float] | None = None,
) -> Path:
    """Write a PNG montage and return its path.

    labels: on the grid of `volume`. slices: how many at most, spread over the labelled part along the acquisition
    axis, shown as radiologists do (the patient's left on the picture's right). tile: the longer side of a slice,
    pixels. Raises InputError for an ending other than .png, another grid, and an unwritable place.
    """
    output = Path(path).expanduser()
    if ending_of(output) != ".png":
        raise InputError(f"The overlay {output.name} is a PNG picture", "Let its name end in .png")
    check_writable(output)
    if not volume.geometry.matches(labels.geometry):
        raise InputError("The label map lies on another grid than the image it is drawn on")
    grey, geometry, orientation = canonical(to_uint8(volume, window), volume.geometry)
    marks = orientation.forth(labels.array)
    axis = acquisition_axis(geometry)
    rows, columns = (geometry.spacing[a] for a in range(3) if a != axis)
    pictures = []
    for index in _chosen(marks, axis, slices):
        plane, mark = upright(np.take(grey, index, axis), axis), upright(np.take(marks, index, axis), axis)
        caption = f"slice {orientation.index_to_source(axis, index)}" if marks.shape[axis] > 1 else ""
        pictures.append(drawn_slice(plane, mark, (rows, columns), tile, labels.structures, caption))
    present = set(values_of(labels.array))
    canvas = _laid_out(pictures, [one for one in labels.structures if one.value in present], title)
    with replaced(output) as temporary:
        canvas.save(temporary, format="PNG")
    return output


def _chosen(marks: np.ndarray, axis: int, count: int) -> list[int]:
    """Planes spread evenly over the labelled part; over the whole volume where nothing is labelled."""
    others = tuple(a for a in range(3) if a != axis)
    labelled = np.flatnonzero(np.any(marks, axis=others))
    if not labelled.size:
        labelled = np.arange(marks.shape[axis])
    count = min(max(count, 1), labelled.size)
    positions = (np.arange(count) + 0.5) / count * labelled.size
    return [int(labelled[int(p)]) for p in positions]


def upright(plane: np.ndarray, axis: int) -> np.ndarray:
    """Head up in coronal and sagittal planes; canonical slices run towards the head."""
    return plane if axis == 0 else plane[::-1]


def drawn_slice(
    plane: np.ndarray,
    marks: np.ndarray,
    spacing: tuple[float, float],
    tile: int,
    structures: tuple[Structure, ...],
    caption: str,
) -> Any:
    """One slice, scaled to `tile` and to square millimetres, with filled and outlined structures."""
    from PIL import Image, ImageDraw

    height, width = plane.shape[0] * spacing[0], plane.shape[1] * spacing[1]
    scale = tile / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(np.ascontiguousarray(plane)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    canvas = np.asarray(picture).astype(np.float32)
    labelled = Image.fromarray(np.ascontiguousarray(marks.astype(np.int32))).resize(size, Image.Resampling.NEAREST)
    large = np.asarray(labelled)
    for one in structures:
        inside = large == one.value
        if np.any(inside):
            color = np.array(one.color, dtype=np.float32) * 255
            canvas[inside] = (1 - _FILL) * canvas[inside] + _FILL * color
            canvas[_edge(inside)] = color
    result = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    ImageDraw.Draw(result).text((4, 2), caption, fill=_INK, font=_font(12))
    return result


def _edge(mask: np.ndarray) -> np.ndarray:
    """The outermost ring of pixels of a mask."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = mask & ~inner
    return edge


def _laid_out(pictures: list[Any], shown: list[Structure], title: str) -> Any:
    """The canvas: title, slices in rows of up to three, the legend beside them in as many columns as it takes."""
    from PIL import Image, ImageDraw

    columns = min(len(pictures), 2 if len(pictures) == 4 else 3)
    rows = -(-len(pictures) // columns)
    wide, high = max(p.width for p in pictures) + _MARGIN, max(p.height for p in pictures) + _MARGIN
    top = _MARGIN + (28 if title else 0)
    lines = max(1, rows * high // _LINE)
    entry = max((int(_font(13).getlength(one.name)) for one in shown), default=0) + 21 + 2 * _MARGIN
    width = _MARGIN + columns * wide + -(-len(shown) // lines) * entry
    size = max(width, int(_font(16).getlength(title)) + 2 * _MARGIN), top + max(rows * high, _LINE)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(16))
    for position, picture in enumerate(pictures):
        row, column = divmod(position, columns)
        left, upper = _MARGIN + column * wide, top + row * high
        canvas.paste(picture, (left + (wide - _MARGIN - picture.width) // 2, upper))
    for position, one in enumerate(shown):
        column, line = divmod(position, lines)
        left, upper = _MARGIN + columns * wide + column * entry, top + line * _LINE
        draw.rectangle((left, upper + 3, left + 13, upper + 16), fill=tuple(round(255 * c) for c in one.color))
        draw.text((left + 21, upper + 1), one.name, fill=_INK, font=_font(13))
    return canvas


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
