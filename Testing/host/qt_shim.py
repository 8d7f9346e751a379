"""Modules `qt` and `ctk` with the manners of PythonQt on PySide6, and a `.ui` loader.

Properties are plain attributes (`w.text`, `w.checked = True`, `w.name`), so `w.text()` fails as it does in Slicer;
signals are connected by signature (`w.connect("clicked(bool)", f)`), and an unknown one is an error.
"""

from __future__ import annotations

import contextlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

qt: Any = types.ModuleType("qt")
ctk: Any = types.ModuleType("ctk")
custom_widgets: dict[str, type] = {}  # widget class name in a .ui file -> Python class (ctk*, qMRML*)
_alive: list[Any] = []  # Python owners of widgets made by the loader; without a reference they lose their Python part


class PythonQtStyle:
    """Mixed in front of every PySide6 QObject class."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("connect", "disconnect"):  # PySide6 sets its own versions on each instance
            return types.MethodType(getattr(PythonQtStyle, name), self)
        if not name.startswith("_"):
            meta = QtCore.QObject.metaObject(self)
            index = meta.indexOfProperty("objectName" if name == "name" else name)
            if index >= 0:
                return meta.property(index).read(self)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
            return
        meta = QtCore.QObject.metaObject(self)
        index = meta.indexOfProperty("objectName" if name == "name" else name)
        if index < 0:
            super().__setattr__(name, value)
        elif not meta.property(index).write(self, list(value) if isinstance(value, tuple) else value):
            raise ValueError(f"cannot set {type(self).__name__}.{name} to {value!r}")

    def connect(self, signature: str, slot: Callable[..., Any]) -> bool:
        self._signal(signature).connect(slot)
        return True

    def disconnect(self, signature: str, slot: Callable[..., Any]) -> bool:
        self._signal(signature).disconnect(slot)
        return True

    def _signal(self, signature: str) -> Any:
        name = signature.split("(")[0]
        meta = QtCore.QObject.metaObject(self)
        methods = (meta.method(i) for i in range(meta.methodCount()))
        signals = QtCore.QMetaMethod.MethodType.Signal
        known = [m.methodSignature().data().decode() for m in methods if m.methodType() == signals]
        by_name = any(k.split("(")[0] == name for k in known)
        if signature.replace(" ", "") not in known and not ("vtk" in signature and by_name):
            raise ValueError(f"{type(self).__name__} has no signal {signature}")
        return super().__getattribute__(name)

    def className(self) -> str:
        return type(self).__name__


def _fill_qt_module() -> None:
    plain = {"QApplication", "QGuiApplication", "QCoreApplication"}
    for module in (QtCore, QtGui, QtWidgets):
        for name in (n for n in dir(module) if not n.startswith("_")):
            item = getattr(module, name)
            if isinstance(item, type) and issubclass(item, QtCore.QObject) and name not in plain:
                with contextlib.suppress(TypeError):  # final classes stay as they are
                    item = type(name, (PythonQtStyle, item), {})
            setattr(qt, name, item)


class QUiLoader(QtUiTools.QUiLoader):
    """Builds every widget from custom_widgets or qt, and makes the <connections> in Python (Qt knows no MRML types)."""

    CONNECTION = re.compile(
        r"<sender>(.*?)</sender>\s*<signal>(\w+)\(.*?\)</signal>\s*<receiver>(.*?)</receiver>\s*<slot>(\w+)\("
    )

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        widget_class = self._class_of(class_name)
        widget = widget_class(parent) if parent is not None else widget_class()
        widget.name = name
        _alive.append(widget)
        return widget

    @staticmethod
    def _class_of(class_name: str) -> Any:
        found = custom_widgets.get(class_name) or getattr(qt, class_name, None)
        if found is None:
            raise RuntimeError(f".ui file uses unknown widget class {class_name}")
        return found

    def load(self, device: Any, parent: Any = None) -> Any:
        text = bytes(device.readAll()).decode()
        for class_name in set(re.findall(r'<widget class="(\w+)"', text)):
            self._class_of(class_name)
        links = self.CONNECTION.findall(text)
        buffer = QtCore.QBuffer()
        buffer.setData(re.sub(r"<connections>.*</connections>", "", text, flags=re.S).encode())
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        root = super().load(buffer, parent)
        if root is None:
            raise RuntimeError(self.errorString())

        def named(name: str) -> Any:
            found = root if root.name == name else QtCore.QObject.findChild(root, QtWidgets.QWidget, name)
            if found is None:
                raise RuntimeError(f".ui file connects {name}, which is not there")
            return found

        for sender, signal, receiver, slot in links:
            getattr(named(sender), signal).connect(getattr(named(receiver), slot))
        return root


def forget_widgets() -> None:
    """Let go of the widgets of closed panels."""
    _alive.clear()


_fill_qt_module()
qt.QUiLoader = QUiLoader
sys.modules.update(qt=qt, ctk=ctk)
