"""Stand-ins for the qMRML* and ctk* widgets that follow a real vtkMRMLScene."""

from __future__ import annotations

from typing import Any

import slicer
from PySide6.QtCore import Property, Signal

from host.qt_shim import ctk, custom_widgets, qt


class qMRMLWidget(qt.QWidget):
    mrmlSceneChanged = Signal(object)

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


class ctkCollapsibleButton(qt.QWidget):
    """A header that folds what lies below it: no room is left for it. What is hidden on purpose stays so, as in CTK."""

    contentsCollapsedChanged = Signal(bool)
    HEADER = 26

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._header, self._closed, self._title = None, False, ""
        header = qt.QPushButton(self)
        header.setStyleSheet(
            "text-align: left; padding: 3px 6px; font-weight: bold; border: none; background: rgba(128,128,128,40);"
        )
        header.clicked.connect(lambda *_: self._fold(not self._closed))
        self._header = header
        self.setContentsMargins(0, self.HEADER, 0, 0)
        self._refresh()

    def resizeEvent(self, event: Any) -> None:
        self._header.setGeometry(0, 0, self.width, self.HEADER)

    def _refresh(self) -> None:
        self._header.setText(("\u25b8 " if self._closed else "\u25be ") + self._title)
        self.setMaximumHeight(self.HEADER if self._closed else 16777215)

    def _fold(self, closed: bool) -> None:
        changed, self._closed = closed != self._closed, closed
        self._refresh()
        if changed:
            self.contentsCollapsedChanged.emit(closed)

    def _retitle(self, title: str) -> None:
        self._title = title
        self._refresh()

    text = Property(str, lambda self: self._title, _retitle)
    collapsed = Property(bool, lambda self: self._closed, _fold)


class ctkPathLineEdit(qt.QWidget):
    """A path as text; the button that opens a file dialog does nothing here."""

    currentPathChanged = Signal(str)
    Dirs, Files, Readable, Writable, Executable = 0x1, 0x2, 0x10, 0x20, 0x40

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = qt.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._edit, button = qt.QLineEdit(), qt.QToolButton()
        button.setText("\u2026")
        row.addWidget(self._edit)
        row.addWidget(button)
        self._edit.textChanged.connect(lambda text: self.currentPathChanged.emit(text))
        self._settings, self._filters = "", self.Files

    filters = Property(int, lambda self: self._filters, lambda self, value: setattr(self, "_filters", value))
    currentPath = Property(str, lambda self: self._edit.text, lambda self, path: self._edit.setText(path))
    settingKey = Property(str, lambda self: self._settings, lambda self, key: setattr(self, "_settings", key))


OPTIONS: dict[str, tuple[Any, Any]] = {
    "nodeTypes": ("QStringList", []),
    "baseName": (str, ""),
    "noneDisplay": (str, "None"),
    "noneEnabled": (bool, False),
    "addEnabled": (bool, True),
    "removeEnabled": (bool, True),
    "renameEnabled": (bool, False),
    "editEnabled": (bool, False),
    "showHidden": (bool, False),
    "showChildNodeTypes": (bool, True),
    "selectNodeUponCreation": (bool, True),
}


def option(name: str, kind: Any) -> Any:
    """A Qt property stored in self._options; a change refills the list."""

    def setter(self: Any, value: Any) -> None:
        self._options[name] = value
        self._rebuild()

    return Property(kind, lambda self: self._options[name], setter)


class qMRMLNodeComboBox(qt.QComboBox):
    """Nodes of some classes, "None" and "Create new ..." as rows; follows added, removed and renamed nodes."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAdded = Signal(object)
    nodeAddedByUser = Signal(object)
    vars().update({name: option(name, kind) for name, (kind, _) in OPTIONS.items()})
    currentNodeID = Property(str, lambda self: self._current, lambda self, value: self.setCurrentNodeID(value))

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._options = {name: default for name, (_, default) in OPTIONS.items()}
        self._scene, self._tags, self._ids, self._current = None, [], [], ""
        self._renames: list[tuple[Any, int]] = []
        self._attributes: list[tuple[str, str, str | None]] = []
        self.currentIndexChanged.connect(self._on_index)

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene = scene
        names = ("NodeAddedEvent", "NodeRemovedEvent", "EndCloseEvent", "EndImportEvent") if scene else ()
        self._tags = [scene.AddObserver(getattr(scene, name), self._on_scene) for name in names]
        self._rebuild()

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:
        self._attributes.append((node_type, name, value))
        self._rebuild()

    def _on_scene(self, *_: Any) -> None:
        try:
            self._rebuild()
        except RuntimeError:  # the widget has gone with its panel
            for tag in self._tags:
                self._scene.RemoveObserver(tag)
            self._tags = []

    def _accepts(self, node: Any) -> bool:
        children = self._options["showChildNodeTypes"]
        if node.GetHideFromEditors() and not self._options["showHidden"]:
            return False
        if not any(node.GetClassName() == k or (children and node.IsA(k)) for k in self._options["nodeTypes"]):
            return False
        wanted = [a for a in self._attributes if node.IsA(a[0])]
        return all(node.GetAttribute(n) is not None and v in (None, node.GetAttribute(n)) for _, n, v in wanted)

    def _watch_names(self, nodes: list[Any]) -> None:
        for node, tag in self._renames:
            node.RemoveObserver(tag)
        shown = {node.GetID(): node.GetName() for node in nodes}

        def renamed(node: Any, event: str) -> None:
            if shown.get(node.GetID()) != node.GetName():
                self._on_scene()

        self._renames = [(node, node.AddObserver("ModifiedEvent", renamed)) for node in nodes]

    def _rebuild(self) -> None:
        if self._scene is None:
            return
        previous = self._current
        self.blockSignals(True)
        self.clear()
        every = (self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes()))
        nodes = [node for node in every if self._accepts(node)]
        rows = [("", self._options["noneDisplay"])] * self._options["noneEnabled"]
        rows += [(node.GetID(), node.GetName()) for node in nodes]
        self._ids = [node_id for node_id, _ in rows]
        self.addItems([label for _, label in rows])
        for kind in self._options["nodeTypes"] if self._options["addEnabled"] else ():
            self.addItem("Create new " + (self._options["baseName"] or kind.replace("vtkMRML", "").replace("Node", "")))
        self.blockSignals(False)
        self._watch_names(nodes)
        self.setCurrentNodeID(previous if previous in self._ids else (self._ids + [""])[0])

    def _on_index(self, index: int) -> None:
        if self._options["addEnabled"] and index >= len(self._ids):  # one of the "Create new ..." rows
            self.nodeAddedByUser.emit(self.addNode(self._options["nodeTypes"][index - len(self._ids)]))
        else:
            self._publish(self._ids[index] if 0 <= index < len(self._ids) else "")

    def _publish(self, node_id: str) -> None:
        changed, self._current = node_id != self._current, node_id
        if changed:
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeIDChanged.emit(node_id)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene and self._current else None

    def setCurrentNodeID(self, node_id: str) -> None:
        self.blockSignals(True)
        self.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        self.blockSignals(False)
        self._publish(node_id if node_id in self._ids else "")

    def setCurrentNode(self, node: Any) -> None:
        self.setCurrentNodeID(node.GetID() if node else "")

    def addNode(self, kind: str = "") -> Any:
        node = self._scene.AddNewNodeByClass(kind or self._options["nodeTypes"][0], self._options["baseName"])
        self.setCurrentNode(node)
        self.nodeAdded.emit(node)
        return node

    def nodeCount(self) -> int:
        return sum(1 for node_id in self._ids if node_id)

    def nodeFromIndex(self, index: int) -> Any:
        return self._scene.GetNodeByID([i for i in self._ids if i][index])


class qMRMLSegmentationShow3DButton(qt.QPushButton):
    """Shows and hides the surfaces of a segmentation."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node = None
        self.setCheckable(True)
        self.setText("Show 3D")
        self.clicked.connect(lambda *_: self._toggle())

    def setSegmentationNode(self, node: Any) -> None:
        self._node = node
        self.setEnabled(node is not None)
        self.setChecked(bool(node and node.GetSegmentation().ContainsRepresentation("Closed surface")))

    def segmentationNode(self) -> Any:
        return self._node

    def _toggle(self) -> None:
        if self._node and self.checked:
            self._node.CreateClosedSurfaceRepresentation()
        elif self._node:
            self._node.RemoveClosedSurfaceRepresentation()


for widget_class, namespace in (
    (qMRMLWidget, slicer),
    (qMRMLNodeComboBox, slicer),
    (qMRMLSegmentationShow3DButton, slicer),
    (ctkCollapsibleButton, ctk),
    (ctkPathLineEdit, ctk),
):
    custom_widgets[widget_class.__name__] = widget_class  # for .ui files
    setattr(namespace, widget_class.__name__, widget_class)  # for module code
