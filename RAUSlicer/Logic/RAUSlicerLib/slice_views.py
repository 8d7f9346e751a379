"""The slice views: bring a slice of a volume into view, and tell which slice is in view. Oblique volumes as well."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.nodes import ijk_to_world, matrix_of
from RAUSlicerLib.problems import Problem

ALIGNED = 0.9999  # cosine between the normals of a view and of a slice; below, the view cuts through several slices


def jump_to(volume: Any, axis: int, index: int) -> Any:
    """Show slice `index` across `axis` of the volume's array in the view that lies most like it; returns its node.

    A view that lies obliquely to the volume is turned into its planes first. Raises Problem: no such slice, no view.
    """
    to_world = ijk_to_world(volume)
    if not 0 <= axis < 3 or not 0 <= index < shape_of(volume)[axis]:
        raise Problem(_("The target has no such slice"), _("Run again"))
    node = view_along(normal_of(to_world, axis))
    if abs(view_normal(node) @ normal_of(to_world, axis)) < ALIGNED:
        node.RotateToVolumePlane(volume)
    show_in(node, volume)
    centre = [(n - 1) / 2 for n in shape_of(volume)]
    centre[axis] = index
    node.JumpSlice(*(to_world @ [*centre[::-1], 1.0])[:3])
    return node


def slice_in_view(volume: Any, axis: int) -> int:
    """The slice across `axis` of the volume's array that is in view. Raises Problem: none is."""
    to_world = ijk_to_world(volume)
    node = view_along(normal_of(to_world, axis))
    if abs(view_normal(node) @ normal_of(to_world, axis)) < ALIGNED:
        raise Problem(_("No view shows the slices as they were acquired"), _("Click a slice in the table first"))
    matrix = matrix_of(node.GetSliceToRAS())
    ijk = np.linalg.inv(to_world) @ [*on_normal(matrix, volume), 1.0]
    index = int(np.rint(ijk[2 - axis]))
    if not 0 <= index < shape_of(volume)[axis]:
        raise Problem(_("The view shows no slice of the target"), _("Scroll to one"))
    return index


def on_normal(slice_to_ras: np.ndarray, volume: Any) -> np.ndarray:
    """The point of a view's plane nearest to the middle of the volume: its own origin may lie far from it."""
    middle = ijk_to_world(volume) @ [*((n - 1) / 2 for n in shape_of(volume)[::-1]), 1.0]
    normal = slice_to_ras[:3, 2] / np.linalg.norm(slice_to_ras[:3, 2])
    point: np.ndarray = middle[:3] + normal * (normal @ (slice_to_ras[:3, 3] - middle[:3]))
    return point


def shape_of(volume: Any) -> tuple[int, int, int]:
    """(slices, rows, columns)."""
    columns, rows, slices = volume.GetImageData().GetDimensions()
    return slices, rows, columns


def normal_of(to_world: np.ndarray, axis: int) -> np.ndarray:
    """The unit normal of the slices across an axis of the array (slice, row, column), RAS."""
    first, second = (to_world[:3, i] for i in range(3) if i != 2 - axis)
    normal = np.cross(first, second)
    unit: np.ndarray = normal / np.linalg.norm(normal)
    return unit


def view_along(normal: np.ndarray) -> Any:
    """The slice view whose normal is most like that one, the first of several. Raises Problem: there is none."""
    views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
    if not views:
        raise Problem(_("No slice view is open"), _("Choose a layout with slice views"))
    return max(views, key=lambda node: round(abs(float(view_normal(node) @ normal)), 6))


def view_normal(node: Any) -> np.ndarray:
    column = matrix_of(node.GetSliceToRAS())[:3, 2]
    unit: np.ndarray = column / np.linalg.norm(column)
    return unit


def show_in(node: Any, volume: Any) -> None:
    """The volume behind the segments of that view, where another one is."""
    logic = slicer.app.applicationLogic().GetSliceLogic(node)
    composite = logic.GetSliceCompositeNode() if logic is not None else None
    if composite is not None and composite.GetBackgroundVolumeID() != volume.GetID():
        composite.SetBackgroundVolumeID(volume.GetID())
