"""Whether a run can start, and if not, why: asked with every change of the panel, so quick and without side effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from RAUSlicerLib.bank_entries import BankChoice
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes, Structure
from RAUSlicerLib.nodes import LABELMAP, ijk_to_ras, image_to_world, pixels_of, same_grid, segments_of
from RAUSlicerLib.problems import NOT_CHOSEN, Problem

MOST_STRUCTURES = 255


def check(
    references: Sequence[ReferenceNodes],
    target: Any,
    wanted: Sequence[Structure],
    output: Any,
    unfinished: bool = False,
    bank: BankChoice | None = None,
) -> None:
    """Raises Problem with what is missing. unfinished: a reference has a volume or a segmentation only."""
    if unfinished:
        hint = _("Pick both, or remove the row")
        raise Problem(_("A reference lacks its volume or its segmentation"), hint, NOT_CHOSEN)
    if bank is not None and not bank.entries:
        raise Problem(
            _("The bank gives no reference"), _("Choose its folder and press List, or do without it"), NOT_CHOSEN
        )
    if not references and bank is None:
        raise Problem(_("Pick a reference volume and its segmentation"), kind=NOT_CHOSEN)
    for reference in references:
        pixels_of(reference.volume)
        if not segments_of(reference.segmentation):
            raise Problem(
                _("The segmentation {name} is empty").format(name=reference.segmentation.GetName()),
                _("Pick a segmentation with at least one segment"),
            )
    if target is None:
        raise Problem(_("Pick the target volume"), kind=NOT_CHOSEN)
    pixels_of(target)
    if not wanted:
        raise Problem(_("Check at least one structure"), kind=NOT_CHOSEN)
    if len(wanted) > MOST_STRUCTURES:
        raise Problem(_("These are more structures than fit in one run"), _("Check at most 255"))
    check_output(output, target)


def check_output(output: Any, target: Any) -> None:
    """An existing segmentation must be able to hold the result voxel for voxel."""
    if output is None or output.GetSegmentation().GetNumberOfSegments() == 0:
        return
    other = _("Choose another output, or let the run make a new one")
    segmentation = output.GetSegmentation()
    name = output.GetName()
    if segmentation.GetSourceRepresentationName() != LABELMAP:
        raise Problem(_("The segmentation {name} is kept as surfaces, not as voxels").format(name=name), other)
    shape = tuple(reversed(target.GetImageData().GetDimensions()))
    for index in range(segmentation.GetNumberOfSegments()):
        image = segmentation.GetNthSegment(index).GetRepresentation(LABELMAP)
        if image is None or image.IsEmpty():
            continue
        if not same_grid(image_to_world(image), ijk_to_ras(target), shape):
            raise Problem(_("The segmentation {name} lies on another grid than the target").format(name=name), other)
    if output.GetParentTransformNode() is not target.GetParentTransformNode():
        raise Problem(
            _("The segmentation {name} and the target lie under different transforms").format(name=name), other
        )
