"""Small widgets that the boxes of the panel are made of."""

from __future__ import annotations

import contextlib
from typing import Any

import ctk
import qt

from RAUSlicerLib.qt_process import later


def line(name: str) -> Any:
    """A label whose text wraps and can be copied."""
    label = qt.QLabel()
    label.name = name
    label.wordWrap = True
    return label


def small(name: str) -> Any:
    """The same in gray."""
    label = line(name)
    label.setStyleSheet("color: gray;")
    return label


def say(label: Any, text: str) -> None:
    """Put a text that must be read whole into a label: nothing of it is squeezed away in a low panel."""
    label.text = text

    def fit() -> None:
        """Once the layout has given the label its width."""
        with contextlib.suppress(RuntimeError, ValueError):  # the panel was closed meanwhile
            label.setMinimumHeight(max(0, label.heightForWidth(int(label.width))) if str(label.text) else 0)

    fit()
    for seconds in (0.0, 0.1):  # the second for a label whose section was opened only now
        later(seconds, fit)


def row(*widgets: tuple[Any, int]) -> Any:
    """Widgets beside each other, each with its stretch."""
    area = qt.QWidget()
    layout = qt.QHBoxLayout(area)
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setSpacing(4)
    for widget, stretch in widgets:
        layout.addWidget(widget, stretch)
    return area


def path_edit(filters: Any, path: str) -> Any:
    edit = ctk.ctkPathLineEdit()
    edit.filters = filters
    edit.currentPath = path
    return edit
