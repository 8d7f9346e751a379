"""2-D pictures (PNG, JPEG, TIFF) through Pillow: a volume of one slice without a physical scale."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError
from rau.volume.itk import BROKEN_HINT


def read_picture(path: Path) -> np.ndarray:
    """(1, R, C) in the picture's own depth, or (1, R, C, 3) uint8. Raises InputError; palettes are refused."""
    image = _opened(path)
    if image.mode in ("P", "PA"):
        raise InputError(
            f"{path.name} is a palette picture, as label maps are", "Save the image as a grey or an RGB picture"
        )
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = array[..., 0] if array.shape[2] == 2 else array[..., :3]
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if (
        array.ndim == 3
        and np.array_equal(array[..., 0], array[..., 1])
        and np.array_equal(array[..., 0], array[..., 2])
    ):
        array = array[..., 0]
    return np.ascontiguousarray(array[None])


def read_index_picture(path: Path) -> tuple[np.ndarray, dict[int, tuple[float, float, float]]]:
    """A label picture: (1, R, C) of indices, and the palette's RGB (0 to 1) by index, empty for grey pictures."""
    image = _opened(path)
    palette: dict[int, tuple[float, float, float]] = {}
    if image.mode == "P":
        array = np.asarray(image)
        flat = image.getpalette("RGB") or []
        palette = {
            i: (flat[3 * i] / 255, flat[3 * i + 1] / 255, flat[3 * i + 2] / 255) for i in range(1, len(flat) // 3)
        }
    else:
        array = np.asarray(image)
        if array.ndim == 3 and all(
            np.array_equal(array[..., 0], array[..., k]) for k in range(1, min(array.shape[2], 3))
        ):
            array = array[..., 0]
        if array.ndim == 3:
            raise InputError(
                f"{path.name} is a colour picture, not a label map", "Save the labels as an 8-bit index or grey picture"
            )
    return np.ascontiguousarray(array.astype(np.uint8) if array.dtype == bool else array)[None], palette


def _opened(path: Path) -> Any:
    """The picture, fully decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG", "TIFF")) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    raise InputError(
                        f"{path.name} holds {frames} pictures", "Save it as a volume (.nrrd) or one picture"
                    )
                image.load()
                return image.copy()
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path.name} is too large a picture") from None
    except Exception:
        # Pillow's decoders raise SyntaxError, struct.error, EOFError, TypeError and others on damaged files
        raise InputError(f"{path.name} cannot be read", BROKEN_HINT) from None
