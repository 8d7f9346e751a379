"""Small widgets that the boxes of the panel are made of."""

from __future__ import annotations

from typing import Any

import ctk
import qt


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
