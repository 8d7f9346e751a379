"""`rau demo`: a synthetic patient is segmented from another one, measured against the truth, and written to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rau.commands.progress import Reporter
from rau.errors import InputError, NothingFoundError
from rau.evaluation.metrics import dice
from rau.events import StageEvent
from rau.settings import SegmentSettings

if TYPE_CHECKING:
    from rau.references.reference import Reference
    from rau.results import SegmentResult
    from rau.volume.volume import LabelMap, Structure, Volume


@dataclass(frozen=True)
class Score:
    """One structure of the reference. dice, copied: of the result and of the reference's own mask, 0 to 1.

    in_target: whether the target has it; if not, both are None, and found must be False.
    """

    structure: Structure
    in_target: bool
    found: bool
    dice: float | None = None
    copied: float | None = None


def run(output: Path, settings: SegmentSettings, shape: tuple[int, int, int] = (48, 128, 128)) -> list[Score]:
    """Make two patients, segment the second from the first, print the table, write the files into `output`.

    Ends with the line `mean Dice X.XXX over N structures, S s`. Raises RauError.
    """
    from rau.pipeline import segment
    from rau.training.patient import patient_pair

    folder = _folder(output)
    reference, (target, truth) = patient_pair(settings.seed, shape)
    with Reporter() as tell:
        result = segment([reference], target, settings, on_event=tell)
        if not result.found:
            raise NothingFoundError("The model found nothing in the synthetic patient", "Try another model or seed")
        tell(StageEvent("export"))
        written = write(folder, reference, target, result)
    scores = measure(reference, truth, result)
    present = [one.dice for one in scores if one.dice is not None]
    print_scores(scores)
    print(f"written to {output}: {', '.join(written)}")
    print(f"mean Dice {np.mean(present):.3f} over {len(present)} structures, {result.seconds:.0f} s")
    return scores


def _folder(output: Path) -> Path:
    folder = output.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        raise InputError(f"The folder {folder.name} cannot be made", "Choose another --output") from None
    return folder


def measure(reference: Reference, truth: LabelMap, result: SegmentResult) -> list[Score]:
    """Dice of every structure of the reference, beside copying the reference's mask (both are on the target's grid)."""
    scores = []
    for one in result.structures:
        value = one.structure.value
        true = truth.array == value
        if not true.any():
            scores.append(Score(one.structure, False, one.present))
            continue
        ours, copied = dice(result.labels.array == value, true), dice(reference.labels.array == value, true)
        scores.append(Score(one.structure, True, one.present, ours, copied))
    return scores


def print_scores(scores: list[Score]) -> None:
    """The table: Dice by structure beside copying the reference, and whether the absent one was told so."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("structure", "Dice", "copied", ""):
        table.add_column(name, justify="right" if name in ("Dice", "copied") else "left", no_wrap=True)
    for one in scores:
        if one.dice is not None and one.copied is not None:
            table.add_row(one.structure.name, f"{one.dice:.3f}", f"{one.copied:.3f}", "" if one.found else "not found")
        else:
            words = (
                "absent in the target, but reported present" if one.found else "absent in the target, reported absent"
            )
            table.add_row(one.structure.name, "-", "-", words)
    Console(highlight=False, markup=False).print(table)


def write(folder: Path, reference: Reference, target: Volume, result: SegmentResult) -> list[str]:
    """The images, the reference's segmentation, the result in two formats and a picture; returns the file names."""
    from rau.export.overlay import overlay_png
    from rau.export.writing import write_labels

    write_image(target, folder / "target.nii.gz")
    write_image(reference.image, folder / "reference.nii.gz")
    write_labels(reference.labels, folder / "reference.seg.nrrd", image=reference.image)
    write_labels(result.labels, folder / "result.nii.gz", image=target)
    write_labels(result.labels, folder / "result.seg.nrrd", image=target, provenance=result.provenance)
    overlay_png(target, result.labels, folder / "overlay.png", title="rau demo: segmented from another patient")
    return [
        "target.nii.gz",
        "reference.nii.gz",
        "reference.seg.nrrd",
        "result.nii.gz",
        "result.seg.nrrd",
        "overlay.png",
    ]


def write_image(volume: Volume, path: Path) -> None:
    """An image as NIfTI, NRRD or MetaImage. Raises InputError."""
    import SimpleITK as sitk

    from rau.export.writing import check_writable, replaced
    from rau.volume.itk import to_itk

    check_writable(path)
    with replaced(path) as temporary:
        sitk.WriteImage(to_itk(volume.array, volume.geometry), str(temporary), useCompression=True)
