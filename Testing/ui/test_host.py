"""The host is as strict as Slicer, and stricter where that finds mistakes."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer_lazy as lazy

ROOT = Path(__file__).resolve().parents[2]


def test_porting_mistakes_are_caught(host: Any) -> None:
    button = host.qt.QPushButton("Apply")
    assert button.text == "Apply"
    with pytest.raises(TypeError):
        button.text()
    with pytest.raises(ValueError, match="no signal"):
        button.connect("pressed(bool)", print)
    with pytest.raises(ValueError, match="cannot set"):
        button.minimumWidth = "wide"
    with pytest.raises(ValueError, match="no signal"):
        lazy.slicer().app.connect("aboutToLeave()", print)


def test_unknown_widgets_in_a_ui_file_are_caught(host: Any) -> None:
    from PySide6.QtCore import QBuffer

    text = b'<ui version="4.0"><class>A</class><widget class="ctkFancyWidget" name="A"/></ui>'
    buffer = QBuffer()
    buffer.setData(text)
    buffer.open(QBuffer.OpenModeFlag.ReadOnly)
    with pytest.raises(RuntimeError, match="ctkFancyWidget"):
        host.qt.QUiLoader().load(buffer)


def test_parameter_node_refuses_what_slicer_refuses(host: Any) -> None:
    slicer = lazy.slicer()
    from sample_parameters import Parameters

    node = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    assert (node.count, node.volumes, node.way, node.on) == (3, [], "a", True)
    with pytest.raises(ValueError):
        node.count = 6
    with pytest.raises(ValueError):
        node.way = "c"
    with pytest.raises(AttributeError):
        node.cuont = 2
    with pytest.raises(ValueError):
        node.volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")]
    volumes = [slicer.util.addVolumeFromArray(np.zeros((2, 2, 2)), name=n) for n in "ab"]
    node.volumes = volumes
    assert node.volumes == volumes
    host.scene.RemoveNode(volumes[0])
    assert node.volumes == [None, volumes[1]]


def test_selector_follows_the_scene(host: Any) -> None:
    slicer, seen = lazy.slicer(), []
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: seen.append(node and node.GetName()))
    combo.setMRMLScene(host.scene)
    volume = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2)), name="CT")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "not listed")
    assert combo.nodeCount() == 1 and combo.currentNode() is volume and seen == ["CT"]
    volume.SetName("MR")
    assert combo.currentText == "MR"
    host.scene.RemoveNode(volume)
    assert combo.currentNode() is None and seen == ["CT", None]
    combo.setMRMLScene(None)


def module_imports(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


def test_slicers_side_imports_nothing_of_third_parties_but_numpy() -> None:
    allowed = {"qt", "ctk", "vtk", "slicer", "SampleData", "numpy", "RAUSlicerLib"} | set(sys.stdlib_module_names)
    files = [ROOT / "RAUSlicer/RAUSlicer.py", *(ROOT / "RAUSlicer/Logic/RAUSlicerLib").glob("*.py")]
    assert len(files) > 10
    for path in files:
        own = {"rau"} if path.name == "installation_helper.py" else set()  # a script for the worker's Python
        assert module_imports(path) <= allowed | own, path.name


def test_the_engine_imports_nothing_of_slicer() -> None:
    for path in (ROOT / "RAUSlicer/Logic/rau").rglob("*.py"):
        assert not module_imports(path) & {"slicer", "qt", "ctk", "vtk", "RAUSlicerLib"}, path


def test_no_classes_of_qt5_that_qt6_lacks() -> None:
    gone = ("QTextCodec", "QRegExp", "QDesktopWidget", "exec_()")
    for path in [ROOT / "RAUSlicer/RAUSlicer.py", *(ROOT / "RAUSlicer/Logic/RAUSlicerLib").glob("*.py")]:
        assert not any(word in path.read_text() for word in gone), path.name
