"""The result of a run as segments: a new group of them in one image, filled slice by slice.

All segments of a run share one label map on the target's grid, as Slicer keeps segments that do not overlap; segments
that were there before lie in other images and are never touched. Nothing is made before the first slice comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable

import numpy as np
import slicer
import vtk

from RAUSlicerLib.exchange import slabs
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import Structure
from RAUSlicerLib.marks import NAME_TAG, RUN_TAG, mark, model_of
from RAUSlicerLib.nodes import LABELMAP, SURFACE, scalars_of, tag_of
from RAUSlicerLib.overlap import covered
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.trust import result_of


class ResultWriter:
    """`Output` of a run.

    segmentation: where the segments go; None makes a segmentation beside the target when the first slice comes, and
    tells `on_made`. run_id: kept in a tag of every segment, by which `remove_run` finds them. clear: leave out what the
    user's own segments cover.
    """

    def __init__(
        self,
        target: Any,
        segmentation: Any,
        structures: Sequence[Structure],
        run_id: str,
        on_made: Callable[[Any], None] = lambda node: None,
        clear: bool = False,
    ) -> None:
        self.target, self.node, self.structures, self.run_id = target, segmentation, list(structures), run_id
        self.on_made, self.made, self.clear = on_made, False, clear
        self._taken: np.ndarray | None = None  # voxels of the user's own segments, where they are left out
        self.ids: dict[int, str] = {}  # label value of the engine -> segment id
        self._image: Any = None
        self._surfaces = False
        self._table = np.zeros(1 << 16, np.uint8)  # by label value of the engine
        self._written = np.zeros(tuple(reversed(target.GetImageData().GetDimensions())), np.uint8)

    # -- Output
    def show_slice(self, axis: int, index: int, labels: np.ndarray) -> None:
        """Show the labels of slice `index` across `axis` of the target's array."""
        self._begin()
        self._put(axis, slice(index, index + 1), np.expand_dims(labels, axis))

    def finish(self, labels: np.ndarray, report: dict[str, Any]) -> Iterator[None]:
        """Write the assembled label map (S, R, C), flag present structures by trust, drop the others."""
        self._begin()
        yield
        for part in slabs(labels.shape, 1):
            self._put(0, part, np.asarray(labels[part]))
            yield
        known = result_of(self.run_id, report)
        present = {one.value: one for one in known.structures if one.found}
        for value, segment_id in list(self.ids.items()):
            segment = self._segment(segment_id)
            if segment is None:
                continue
            if value not in present:
                self._remove(segment_id)
                del self.ids[value]
            else:
                mark(segment, present[value], model_of(known))
            yield
        yield from self._refresh_surfaces()

    def discard(self) -> None:
        """The scene as it was before the run."""
        if self.node is not None and self._in_scene(self.node):
            for segment_id in self.ids.values():
                self._remove(segment_id)
            if self.made and self.node.GetSegmentation().GetNumberOfSegments() == 0:
                remove_node(self.node)
        self.ids.clear()
        self._image = None

    # -- making the segments
    def _begin(self) -> None:
        if self.ids:
            return
        if not self._in_scene(self.target):
            raise Problem(_("The target volume has left the scene"))
        if self.node is None:
            self.node = make_segmentation(self.target)
            self.node.SetAttribute(RUN_TAG, self.run_id)
            self.made = True
        elif not self._in_scene(self.node):
            raise Problem(_("The output segmentation has left the scene"))
        self._taken = covered(self.node, self._written.shape) if self.clear else None
        self._image = empty_image(self.target)
        self._surfaces = self.node.GetSegmentation().ContainsRepresentation(SURFACE)
        with slicer.util.NodeModify(self.node):
            for number, structure in enumerate(self.structures, start=1):
                self.ids[structure.value] = self._add_segment(number, structure)
                self._table[structure.value] = number
        if self.made:
            self.on_made(self.node)

    def _add_segment(self, label: int, structure: Structure) -> str:
        segmentation = self.node.GetSegmentation()
        segment = slicer.vtkSegment()
        segment.SetName(unique_name(segmentation, structure.name))
        segment.SetColor(*structure.color)
        segment.SetLabelValue(label)
        if structure.terminology:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), structure.terminology)
        segment.SetTag(RUN_TAG, self.run_id)
        segment.SetTag(NAME_TAG, structure.name)
        segment.AddRepresentation(LABELMAP, self._image)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetSegmentStatus(segment, logic.InProgress)
        segment_id = segmentation.GenerateUniqueSegmentID(structure.name)
        if not segmentation.AddSegment(segment, segment_id):
            raise Problem(_("The output segmentation takes no new segments"), _("Choose another"))
        return str(segment_id)

    # -- writing voxels
    def _put(self, axis: int, part: slice, labels: np.ndarray) -> None:
        """Labels of some slices across `axis` of the target's array."""
        if not self._in_scene(self.node):
            raise Problem(_("The output segmentation has left the scene"))
        where = tuple(part if a == axis else slice(None) for a in range(3))
        wanted = self._table[labels]
        if self._taken is not None:
            wanted[self._taken[where]] = 0
        changed = not np.array_equal(self._written[where], wanted)
        self._written[where] = wanted
        if not self._owns_image():
            self._own_again()
        elif changed:
            scalars_of(self._image)[where] = wanted
            tell_change(self.node.GetSegmentation(), self._image)

    def _owns_image(self) -> bool:
        """Whether the shared image is still as we made it, and holds the segments of the run alone."""
        segmentation = self.node.GetSegmentation()
        ours = {one for one in self.ids.values() if segmentation.GetSegment(one) is not None}
        if any(segmentation.GetSegment(one).GetRepresentation(LABELMAP) is not self._image for one in ours):
            return False
        if not ours:
            return True
        layer = segmentation.GetLayerIndex(next(iter(ours)), LABELMAP)
        alone = set(segmentation.GetSegmentIDsForLayer(layer, LABELMAP)) == ours
        return alone and scalars_of(self._image).shape == self._written.shape

    def _own_again(self) -> None:
        """Somebody edited while the run went on: give the run's segments an image of their own anew."""
        segmentation = self.node.GetSegmentation()
        image = empty_image(self.target)
        scalars_of(image)[...] = self._written
        for structure_value, segment_id in self.ids.items():
            segment = segmentation.GetSegment(segment_id)
            if segment is None:
                continue
            erase(segmentation, segment_id)
            segment.SetLabelValue(int(self._table[structure_value]))
            segment.AddRepresentation(LABELMAP, image)
        self._image = image
        tell_change(segmentation, image)

    def _refresh_surfaces(self) -> Iterator[None]:
        """Where surfaces are shown, make those of the run, one a step."""
        segmentation = self.node.GetSegmentation()
        for segment_id in self.ids.values() if self._surfaces else ():
            yield
            if self._segment(segment_id) is not None:
                make_surface(segmentation, segment_id)

    # -- small things
    def _segment(self, segment_id: str) -> Any:
        return self.node.GetSegmentation().GetSegment(segment_id) if segment_id else None

    def _remove(self, segment_id: str) -> None:
        remove_segment(self.node, segment_id)

    @staticmethod
    def _in_scene(node: Any) -> bool:
        return bool(node is not None and slicer.mrmlScene.IsNodePresent(node))


def make_segmentation(target: Any) -> Any:
    """A segmentation on the target's grid, under its transform, beside it in the subject hierarchy."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(f"{target.GetName()} segmentation")
    )
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(target)
    node.SetAndObserveTransformNodeID(target.GetTransformNodeID())
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item, beside = (tree.GetItemByDataNode(one) if tree else 0 for one in (node, target))
    if item and beside:
        tree.SetItemParent(item, tree.GetItemParent(beside))
    return node


def empty_image(target: Any, extent: Sequence[int] | None = None) -> Any:
    """A label map of zeros on the target's grid, or on a part of it (i0, i1, j0, j1, k0, k1)."""
    matrix = vtk.vtkMatrix4x4()
    target.GetIJKToRASMatrix(matrix)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*(extent or target.GetImageData().GetExtent()))
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.SetGeometryFromImageToWorldMatrix(matrix)
    scalars_of(image)[...] = 0
    return image


def unique_name(segmentation: Any, name: str) -> str:
    """The name, or with the next free number where a segment has it already."""
    taken = {segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())}
    number, found = 2, name
    while found in taken:
        found, number = f"{name} ({number})", number + 1
    return found


def show_run(node: Any, run_id: str, visible: bool) -> None:
    """Show or hide the segments of a run."""
    display = node.GetDisplayNode()
    for segment_id in segments_of_run(node, run_id) if display is not None else ():
        display.SetSegmentVisibility(segment_id, visible)


def segments_of_run(node: Any, run_id: str) -> list[str]:
    """Ids of the segments that a run made."""
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    return [one for one in ids if run_id and tag_of(segmentation.GetSegment(one), RUN_TAG) == run_id]


def remove_run(node: Any, run_id: str) -> int:
    """Undo of a run: remove its segments, and the segmentation when the run made it and nothing else is left in it."""
    ids = segments_of_run(node, run_id)
    with slicer.util.NodeModify(node):
        for segment_id in ids:
            remove_segment(node, segment_id)
    if node.GetAttribute(RUN_TAG) == run_id and node.GetSegmentation().GetNumberOfSegments() == 0:
        remove_node(node)
    return len(ids)


def remove_segment(node: Any, segment_id: str) -> None:
    """Remove a segment. Its voxels go first: RemoveSegment takes long over those in a shared image."""
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment(segment_id)
    if segment is not None:
        erase(segmentation, segment_id)
        segment.RemoveRepresentation(LABELMAP)
        segmentation.RemoveSegment(segment_id)


def erase(segmentation: Any, segment_id: str) -> None:
    """Clear the voxels of a segment where its image holds other segments as well."""
    segment = segmentation.GetSegment(segment_id)
    image = segment.GetRepresentation(LABELMAP)
    if image is not None and segmentation.IsSharedBinaryLabelmap(segment_id):
        array = scalars_of(image)
        array[array == segment.GetLabelValue()] = 0
        tell_change(segmentation, image)


def tell_change(segmentation: Any, image: Any) -> None:
    """Views follow; but the surfaces of other segments stay, which Slicer would drop with any change of voxels."""
    image.GetPointData().GetScalars().Modified()
    segmentation.InvokeEvent(slicer.vtkSegmentation.SourceRepresentationModified)


def make_surface(segmentation: Any, segment_id: str) -> None:
    """The surface of one segment: Slicer makes those of all segments in one go, which takes long."""
    segment, alone, copy = segmentation.GetSegment(segment_id), slicer.vtkSegmentation(), slicer.vtkSegment()
    alone.SetSourceRepresentationName(LABELMAP)
    alone.CopyConversionParameters(segmentation)
    copy.SetLabelValue(segment.GetLabelValue())
    copy.AddRepresentation(LABELMAP, segment.GetRepresentation(LABELMAP))
    alone.AddSegment(copy, segment_id)
    if alone.CreateRepresentation(SURFACE):
        segment.AddRepresentation(SURFACE, copy.GetRepresentation(SURFACE))


def remove_node(node: Any) -> None:
    """Remove a segmentation with its display and storage nodes."""
    scene = slicer.mrmlScene
    others = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
    others += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for one in others:
        if one is not None and scene.IsNodePresent(one):
            scene.RemoveNode(one)
