"""Slice and 3-D views drawn off screen by the real MRML displayable managers: no X server, no Qt."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support

os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")  # no look for an X server


class OffscreenView:
    """A render window with a displayable manager group: what qMRMLSliceView and qMRMLThreeDView own in Slicer."""

    def __init__(self, application: Any, factory_class: Any, managers: Sequence[str], size: tuple[int, int]) -> None:
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.window.SetSize(*size)
        self.renderer = vtk.vtkRenderer()
        self.window.AddRenderer(self.renderer)
        self.interactor = vtk.vtkRenderWindowInteractor()
        self.interactor.SetRenderWindow(self.window)
        self.interactor.Initialize()
        factory = factory_class.GetInstance()
        factory.SetMRMLApplicationLogic(application)
        for name in managers:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self.group = slicer.vtkMRMLDisplayableManagerGroup()
        self.group.SetRenderer(self.renderer)
        self.group.Initialize(factory, self.renderer)
        self.logic: Any = None
        self.logics: Any = None

    def close(self) -> None:
        """Remove the view's own nodes from the scene: they are singletons, and would stay when it is cleared."""
        scene, logic = self.logic.GetMRMLScene(), self.logic
        flat = hasattr(logic, "GetSliceCompositeNode")
        nodes = [logic.GetSliceNode(), logic.GetSliceCompositeNode()] if flat else [logic.GetViewNode()]
        self.group.SetMRMLDisplayableNode(None)
        self.logics.RemoveItem(self.logic)
        self.logic.SetMRMLScene(None)
        for node in nodes:
            if node is not None and scene.IsNodePresent(node):
                scene.RemoveNode(node)
        self.window.Finalize()

    def pixels(self) -> np.ndarray:
        """(rows, columns, 3) uint8 of what the view shows now."""
        self.window.Render()
        grabber = vtk.vtkWindowToImageFilter()
        grabber.SetInput(self.window)
        grabber.ReadFrontBufferOff()
        grabber.Update()
        image = grabber.GetOutput()
        columns, rows, _ = image.GetDimensions()
        flat = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        return np.ascontiguousarray(flat.reshape(rows, columns, -1)[::-1, :, :3])


def slice_view(
    application: Any,
    scene: Any,
    volume: Any,
    offset: float,
    orientation: str = "Axial",
    size: tuple[int, int] = (500, 500),
) -> OffscreenView:
    """A slice view on `volume` with the segmentations of the scene, at `offset` mm along its normal."""
    managers = ["vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLRulerDisplayableManager"]
    view = OffscreenView(application, slicer.vtkMRMLSliceViewDisplayableManagerFactory, managers, size)
    view.renderer.GetActiveCamera().ParallelProjectionOn()
    view.logic = slicer.vtkMRMLSliceLogic()
    view.logic.SetMRMLApplicationLogic(application)
    view.logics = application.GetSliceLogics()
    view.logics.AddItem(view.logic)
    view.logic.SetMRMLScene(scene)
    node = view.logic.AddSliceNode({"Axial": "Red", "Sagittal": "Yellow", "Coronal": "Green"}[orientation])
    node.SetOrientation(orientation)
    view.group.SetMRMLDisplayableNode(node)
    view.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
    view.logic.ResizeSliceNode(*size)
    view.logic.FitSliceToBackground()
    view.logic.SetSliceOffset(offset)
    # The image is painted by a Qt-side class in Slicer; a 2-D actor does it here.
    mapper = vtk.vtkImageMapper()
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    mapper.SetInputConnection(view.logic.GetImageDataConnection())
    actor = vtk.vtkActor2D()
    actor.SetMapper(mapper)
    actor.GetProperty().SetDisplayLocationToBackground()
    # In a layer below the segments, which Slicer does as well: their fill is blended with the image.
    below = vtk.vtkRenderer()
    below.AddViewProp(actor)
    view.window.SetNumberOfLayers(2)
    view.renderer.SetLayer(1)
    view.window.AddRenderer(below)
    return view


def three_d_view(application: Any, scene: Any, size: tuple[int, int] = (500, 500)) -> OffscreenView:
    """A 3-D view of the surfaces in the scene, seen from the front."""
    managers = [
        "vtkMRMLCameraDisplayableManager",
        "vtkMRMLViewDisplayableManager",
        "vtkMRMLModelDisplayableManager",
        "vtkMRMLSegmentationsDisplayableManager3D",
    ]
    view = OffscreenView(application, slicer.vtkMRMLThreeDViewDisplayableManagerFactory, managers, size)
    view.logic = slicer.vtkMRMLViewLogic()
    view.logic.SetMRMLApplicationLogic(application)
    view.logics = application.GetViewLogics()
    view.logics.AddItem(view.logic)
    view.logic.SetMRMLScene(scene)
    node = view.logic.AddViewNode("1")
    node.SetBoxVisible(False)
    node.SetAxisLabelsVisible(False)
    view.group.SetMRMLDisplayableNode(node)
    view.window.Render()
    camera = view.renderer.GetActiveCamera()
    camera.SetPosition(120, 900, 250)
    camera.SetFocalPoint(0, 0, 0)
    camera.SetViewUp(0, 0, 1)
    view.renderer.ResetCamera()
    camera.Zoom(1.1)
    return view
