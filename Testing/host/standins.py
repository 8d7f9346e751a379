"""Stand-ins for the Python modules of the Slicer application that slicer-core lacks."""

from __future__ import annotations

import os
import sys
import types
import unittest
from typing import Any

import slicer

from host import parameter_node


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent = parent


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        self.parent = parent
        self.layout = parent.layout()
        self.moduleName = type(self).__name__.removesuffix("Widget")

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass

    def enter(self) -> None:
        pass

    def exit(self) -> None:
        pass

    def resourcePath(self, relative: str) -> str:
        folder = os.path.dirname(sys.modules[type(self).__module__].__file__ or "")
        return os.path.join(folder, "Resources", relative)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """One vtkMRMLScriptedModuleNode per module and scene."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.vtkMRMLScriptedModuleNode()
            node.SetSingletonTag(self.moduleName)
            node.SetModuleName(self.moduleName)
            node = slicer.mrmlScene.AddNode(node)
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)

    def delayDisplay(self, message: str, *_: Any, **__: Any) -> None:
        print(message)

    def runTest(self) -> None:
        names = [name for name in dir(self) if name.startswith("test_")]
        for name in names:
            self.setUp()
            getattr(self, name)()
            self.tearDown()


def _module(name: str, content: dict[str, Any]) -> None:
    module = types.ModuleType("slicer." + name)
    module.__dict__.update(content)
    sys.modules["slicer." + name] = module
    setattr(slicer, name, module)


def install() -> None:
    """Make `from slicer.ScriptedLoadableModule import *` and friends work."""
    bases = (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    )
    _module("ScriptedLoadableModule", {item.__name__: item for item in bases})
    wrapper = ("parameterNodeWrapper", "Default", "Choice", "WithinRange", "Minimum", "Maximum")
    _module("parameterNodeWrapper", {name: getattr(parameter_node, name) for name in wrapper})
    _module("i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
