"""A subset of Slicer's parameter node wrapper: annotated attributes stored in a vtkMRMLScriptedModuleNode.

Kinds: str, int, float, bool, Enum, MRML nodes, lists of str and of nodes; `Annotated` with Default, Choice, Minimum,
Maximum and WithinRange. As in Slicer, `connectGui` compares the exact widget class, and an unknown parameter or a
widget without a connector is an error.
"""

from __future__ import annotations

import enum
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer


@dataclass(frozen=True)
class Default:
    value: Any


class Choice:
    def __init__(self, choices: typing.Iterable[Any]) -> None:
        self.choices = tuple(choices)

    def check(self, value: Any) -> None:
        if value not in self.choices:
            raise ValueError(f"{value!r} is not one of {self.choices}")


class WithinRange:
    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def check(self, value: Any) -> None:
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value!r} is not within {self.minimum} and {self.maximum}")


@dataclass(frozen=True)
class Minimum:
    minimum: float

    def check(self, value: Any) -> None:
        if value < self.minimum:
            raise ValueError(f"{value!r} is less than {self.minimum}")


@dataclass(frozen=True)
class Maximum:
    maximum: float

    def check(self, value: Any) -> None:
        if value > self.maximum:
            raise ValueError(f"{value!r} is more than {self.maximum}")


class Stored:
    """How one annotated attribute is kept in the node."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        extras: tuple[Any, ...] = ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *found = typing.get_args(hint)
            extras = tuple(found)
        self.name, self.kind = name, hint
        self.item = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
        self.checks = [one for one in extras if hasattr(one, "check")]
        given = [one.value for one in extras if isinstance(one, Default)]
        choices = [one.choices[0] for one in extras if isinstance(one, Choice)]
        self.default = ([default] if default is not None else given + choices + [self._zero()])[0]

    def _zero(self) -> Any:
        if self.item is not None:
            return []
        if isinstance(self.kind, type) and issubclass(self.kind, enum.Enum):
            return next(iter(self.kind))
        return self.kind() if self.kind in (str, int, float, bool) else None

    @staticmethod
    def _is_node(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)

    def _role(self, index: int) -> str:
        return f"{self.name}_{index}"

    def read(self, node: Any) -> Any:
        if self._is_node(self.kind):
            return node.GetNodeReference(self.name)
        if self._is_node(self.item):
            count = int(node.GetParameter(f"{self.name}_length") or 0)
            return [node.GetNodeReference(self._role(i)) for i in range(count)]
        if self.name not in node.GetParameterNames():
            return list(self.default) if self.item is not None else self.default
        text = node.GetParameter(self.name)
        if self.item is not None:
            return json.loads(text)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def write(self, node: Any, value: Any) -> None:
        for one in self.checks:
            one.check(value)
        if self._is_node(self.kind):
            self._check_node(value, self.kind)
            node.SetNodeReferenceID(self.name, value.GetID() if value else None)
        elif self._is_node(self.item):
            self._write_nodes(node, value)
        elif self.item is not None:
            node.SetParameter(self.name, json.dumps([self.item(one) for one in value]))
        elif issubclass(self.kind, enum.Enum):
            node.SetParameter(self.name, self.kind(value).name)
        elif not isinstance(value, self.kind):
            raise ValueError(f"{self.name} takes {self.kind.__name__}, not {value!r}")
        else:
            node.SetParameter(self.name, str(value))

    @staticmethod
    def _check_node(value: Any, kind: Any) -> None:
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"{value} is no {kind.__name__}")

    def _write_nodes(self, node: Any, value: Any) -> None:
        blocked = node.StartModify()
        try:
            old = int(node.GetParameter(f"{self.name}_length") or 0)
            for i in range(max(old, len(value))):
                one = value[i] if i < len(value) else None
                self._check_node(one, self.item)
                node.SetNodeReferenceID(self._role(i), one.GetID() if one else None)
            node.SetParameter(f"{self.name}_length", str(len(value)))
        finally:
            node.EndModify(blocked)


# exact widget class -> (signal, read, write)
Connector = tuple[str, Callable[[Any], Any], Callable[[Any, Any], Any]]


def _attribute(signal: str, name: str) -> Connector:
    return signal, lambda w: getattr(w, name), lambda w, v: setattr(w, name, v)


CONNECTORS: dict[str, Connector] = {
    "QLineEdit": _attribute("textChanged(QString)", "text"),
    "QCheckBox": _attribute("toggled(bool)", "checked"),
    "QSpinBox": _attribute("valueChanged(int)", "value"),
    "QSlider": _attribute("valueChanged(int)", "value"),
    "QDoubleSpinBox": _attribute("valueChanged(double)", "value"),
    "ctkPathLineEdit": _attribute("currentPathChanged(QString)", "currentPath"),
    "qMRMLNodeComboBox": (
        "currentNodeChanged(vtkMRMLNode*)",
        lambda w: w.currentNode(),
        lambda w, v: w.setCurrentNode(v),
    ),
}


def _connector(widget: Any) -> Connector:
    try:
        return CONNECTORS[type(widget).__name__]
    except KeyError:
        raise ValueError(f"{widget.name}: no connector for {type(widget).__name__}") from None


def parameterNodeWrapper(cls: type) -> type:
    """Turn annotated attributes into properties stored in a vtkMRMLScriptedModuleNode, with two-way GUI binding."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: Stored(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}

    def __init__(self: Any, node: Any) -> None:
        object.__setattr__(self, "parameterNode", node)
        object.__setattr__(self, "_bindings", {})

    def __setattr__(self: Any, name: str, value: Any) -> None:
        if name not in fields:
            raise AttributeError(f"{cls.__name__} has no parameter {name}")
        if fields[name].read(self.parameterNode) != value:
            fields[name].write(self.parameterNode, value)

    def __getattr__(self: Any, name: str) -> Any:  # AddObserver, GetID, StartModify, ...
        return getattr(self.parameterNode, name)

    def connectGui(self: Any, ui: Any) -> int:
        widgets = [w for w in vars(ui).values() if w.property("SlicerParameterName")]
        pairs = [(w, w.property("SlicerParameterName"), _connector(w)) for w in widgets]
        slots = []
        for widget, name, (signal, read, write) in pairs:
            if name not in fields:
                raise ValueError(f"{widget.name}: no parameter called {name}")
            write(widget, getattr(self, name))

            def to_node(*_: Any, w: Any = widget, n: str = name, r: Any = read) -> None:
                setattr(self, n, r(w))

            widget.connect(signal, to_node)
            slots.append((widget, signal, to_node))

        def to_gui(*_: Any) -> None:
            for widget, name, (_signal, read, write) in pairs:
                if read(widget) != getattr(self, name):
                    write(widget, getattr(self, name))

        tag = self.parameterNode.AddObserver("ModifiedEvent", to_gui)
        self._bindings[tag] = slots
        return int(tag)

    def disconnectGui(self: Any, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)
        for widget, signal, slot in self._bindings.pop(tag):
            widget.disconnect(signal, slot)

    members: dict[str, Any] = {n: property(lambda self, s=s: s.read(self.parameterNode)) for n, s in fields.items()}
    members.update(
        __init__=__init__,
        __setattr__=__setattr__,
        __getattr__=__getattr__,
        __module__=cls.__module__,
        __doc__=cls.__doc__,
        connectGui=connectGui,
        disconnectGui=disconnectGui,
        allParameters=fields,
    )
    return type(cls.__name__, (), members)
