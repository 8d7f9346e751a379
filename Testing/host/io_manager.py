"""`slicer.app.coreIOManager()`: loading and saving nodes by file ending, for slicer.util.load... and save...."""

from __future__ import annotations

import os
from typing import Any

import slicer
import vtk

SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
VOLUMES = (".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd", ".png", ".jpg", ".tif", ".tiff", ".dcm")
SCENES = (".mrb", ".mrml")


class CoreIOManager:
    def __init__(self, scene: Any) -> None:
        self._scene = scene

    def loadNodes(self, file_type: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        path = str(properties["fileName"])
        node = self._load(file_type, path, str(properties.get("name", "")))
        if node is not None and isinstance(loaded, vtk.vtkCollection):
            loaded.AddItem(node)
        return node is not None

    def _load(self, file_type: str, path: str, name: str) -> Any:
        name = name or os.path.basename(path).split(".")[0]
        if file_type == "SceneFile" or path.endswith(SCENES):
            return self._scene if self._scene.ReadFromMRB(path, True) else None
        if file_type == "SegmentationFile" or path.endswith(SEGMENTATIONS):
            node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            storage = self._scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
            storage.SetFileName(path)
            node.SetAndObserveStorageNodeID(storage.GetID())
            if storage.ReadData(node):
                node.CreateDefaultDisplayNodes()
                return node
            self._scene.RemoveNode(node)
            return None
        if file_type == "VolumeFile" and path.endswith(VOLUMES):
            return slicer.modules.volumes.logic().AddArchetypeVolume(path, name)
        raise RuntimeError(f"The test host cannot load {os.path.basename(path)} as {file_type}")

    def fileWriterFileType(self, node: Any) -> str:
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "VolumeFile"

    def saveNodes(self, file_type: str, properties: dict[str, Any], messages: Any = None) -> bool:
        path = str(properties["fileName"])
        if path.endswith(".mrb"):
            return bool(self._scene.WriteToMRB(path, None))
        node = self._scene.GetNodeByID(properties["nodeID"])
        kind = "Segmentation" if path.endswith(SEGMENTATIONS) else "VolumeArchetype"
        storage = getattr(slicer, f"vtkMRML{kind}StorageNode")()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))
