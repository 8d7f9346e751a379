"""A parameter node as a module declares it; imported once the host has been started."""

from typing import Annotated

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class Parameters:
    count: Annotated[int, WithinRange(1, 5)] = 3
    volumes: list[vtkMRMLScalarVolumeNode]
    way: Annotated[str, Choice(["a", "b"])]
    on: bool = True
