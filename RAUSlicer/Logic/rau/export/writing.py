"""Label maps to files: NIfTI, NRRD, MetaImage, .seg.nrrd, DICOM SEG, index PNG; always on the grid of the label map."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import InputError, disk_full
from rau.volume.files import ending_of, quiet_stderr
from rau.volume.labels import LARGEST_LABEL, label_type, values_of
from rau.volume.terminology import color_of
from rau.volume.volume import LabelMap, Structure, Volume

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".dcm", ".png")
PROVENANCE_KEY = "RAU_Provenance"
LITTLE = 1 << 16  # bytes that a full disk may still have


def check_output(path: str | os.PathLike[str], *, is_single_slice: bool) -> Path:
    """`path` as a Path that `write_labels` can write, checked before work begins. Raises InputError.

    Refuses unknown endings, a PNG for a volume, a DICOM SEG without the package for it, a folder, and a place where
    no file can be made.
    """
    output = Path(path).expanduser()
    ending = ending_of(output)
    if ending not in ENDINGS:
        raise InputError(f"The output {output.name} has an ending that is not known", f"Use one of {' '.join(ENDINGS)}")
    if ending == ".png" and not is_single_slice:
        raise InputError(f"A PNG holds one slice, not a volume: {output.name}", "Use .nii.gz, .nrrd, .mha or .seg.nrrd")
    if ending == ".dcm":
        from rau.volume.dicom_frames import highdicom

        highdicom()
    check_writable(output)
    return output


def check_writable(output: Path) -> None:
    """Raises InputError where `output` cannot be made: no folder, no permission, a folder of that name."""
    folder = output.parent
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder.name} for the output {output.name}", "Make it first")
    if output.is_dir():
        raise InputError(f"The output {output.name} is a folder", "Give a file name in it")
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with open(probe, "xb"):
            pass
        probe.unlink()
    except OSError as error:
        if disk_full(error):
            raise InputError(f"{output.name} cannot be written: the disk is full", "Free some space there") from None
        raise InputError(f"No permission to write {output.name}", "Choose another folder") from None


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A temporary file beside `output`, with its ending, that takes its place when all went well. Raises InputError."""
    temporary = output.parent / f".{secrets.token_hex(8)}.tmp{ending_of(output)}"
    try:
        yield temporary
        os.replace(temporary, output)
    except (OSError, RuntimeError) as error:
        if no_room(error, output.parent):
            hint = "Free some space there, or choose another place"
            raise InputError(f"{output.name} cannot be written: the disk is full", hint) from None
        raise InputError(f"{output.name} cannot be written", "Choose another place") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def no_room(error: Exception, folder: Path) -> bool:
    """Whether a file could not be written for want of room. Libraries do not always say so: the folder is asked too."""
    if disk_full(error) or "No space left" in str(error):
        return True
    try:
        return shutil.disk_usage(folder).free < LITTLE
    except OSError:
        return False


def write_labels(
    labels: LabelMap,
    path: str | os.PathLike[str],
    *,
    image: Volume | None = None,
    provenance: dict[str, Any] | None = None,
    source_dicom: Sequence[str | os.PathLike[str]] = (),
) -> Path:
    """Write the label map by the ending of `path` and return the path; nothing half written is left behind.

    image: the target; a DICOM SEG takes nothing of it but its modality. provenance: ready for JSON; kept in the header
    of NRRD and MetaImage and in the algorithm of a DICOM SEG. source_dicom: the files of the target's series
    (`rau.volume.dicom.series_files`), which a DICOM SEG then refers to; without them the SEG stands on its own.
    DICOM SEG numbers the segments 1, 2, ... in the order of the label values; all other formats keep the values.
    Raises InputError.
    """
    output = check_output(path, is_single_slice=min(labels.geometry.shape) == 1)
    labels = _complete(labels)
    ending = ending_of(output)
    write: Callable[[Path], None]
    if ending == ".png":
        write = _png_writer(labels)
    elif ending == ".dcm":
        from rau.export.dicom_seg import seg_writer

        write = seg_writer(labels, image, provenance or {}, [Path(file) for file in source_dicom])
    else:
        write = _itk_writer(labels, ending, provenance or {})
    with replaced(output) as temporary:
        write(temporary)
    return output


def _complete(labels: LabelMap) -> LabelMap:
    """With the smallest type for the values, and a structure for each value that occurs."""
    highest = max(int(labels.array.max()), max((one.value for one in labels.structures), default=0))
    if highest > LARGEST_LABEL or int(labels.array.min()) < 0:
        raise InputError(f"Label values from 1 to {LARGEST_LABEL} can be written")
    array = labels.array.astype(label_type(highest))
    named = {one.value for one in labels.structures}
    unnamed = [Structure(v, f"structure {v}", color_of(v)) for v in values_of(array) if v not in named]
    return replace(labels, array=array, structures=(*labels.structures, *unnamed))


def _itk_writer(labels: LabelMap, ending: str, provenance: dict[str, Any]) -> Callable[[Path], None]:
    import SimpleITK as sitk

    from rau.volume.itk import to_itk
    from rau.volume.nifti import check_contents

    image = to_itk(labels.array, labels.geometry)
    header: dict[str, str] = {}
    if ending == ".seg.nrrd":
        from rau.volume.seg_nrrd import header_of

        header = header_of(labels, boxes_of(labels.array))
    if provenance and ending in (".nrrd", ".seg.nrrd", ".mha"):
        header[PROVENANCE_KEY] = json.dumps(provenance, sort_keys=True, default=str)
    for key, value in header.items():
        image.SetMetaData(key, value)

    def write(temporary: Path) -> None:
        with quiet_stderr():
            sitk.WriteImage(image, str(temporary), useCompression=ending != ".nii")
        if ending.startswith(".nii") and check_contents(temporary).cut_off:
            raise OSError("the file is cut off")  # which ITK does not tell of a NIfTI on a full disk

    return write


def _png_writer(labels: LabelMap) -> Callable[[Path], None]:
    from PIL import Image

    if labels.array.dtype != np.uint8:
        raise InputError("A PNG label map holds values up to 255", "Use .nii.gz, .nrrd or .mha")
    plane = labels.array.squeeze(axis=labels.geometry.shape.index(1))
    palette = np.zeros((256, 3), dtype=np.uint8)
    for one in labels.structures:
        palette[one.value] = np.rint(np.clip(one.color, 0, 1) * np.array(255)).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(plane))
    picture.putpalette(palette.ravel().tolist())

    def write(temporary: Path) -> None:
        picture.save(temporary, format="PNG")

    return write


def boxes_of(array: np.ndarray) -> dict[int, np.ndarray]:
    """By label value, (2, 3): first and last index (slice, row, column) that it reaches."""
    boxes: dict[int, np.ndarray] = {}
    for index in range(array.shape[0]):
        for value in values_of(array[index]):
            rows, columns = np.nonzero(array[index] == value)
            low, high = (index, rows.min(), columns.min()), (index, rows.max(), columns.max())
            known = boxes.get(value, np.array([low, high]))
            boxes[value] = np.array([np.minimum(known[0], low), np.maximum(known[1], high)])
    return boxes
