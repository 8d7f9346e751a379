"""What the tables of the panel have in common: QTreeWidgets without a tree."""

from __future__ import annotations

from typing import Any

import qt

VALUE_ROLE = 256  # Qt.UserRole
MOST_ROWS = 8  # that a table shows without scrolling
HEADER = 30


def columns(tree: Any, names: list[str]) -> None:
    tree.setColumnCount(len(names))
    tree.setHeaderLabels(names)
    tree.header().setStretchLastSection(False)
    for index in range(len(names)):
        mode = qt.QHeaderView.Stretch if index == 0 else qt.QHeaderView.ResizeToContents
        tree.header().setSectionResizeMode(index, mode)


def fit(tree: Any, most: int = MOST_ROWS, least: int = 1, header: int = HEADER) -> None:
    """As high as its rows need, from `least` to `most` of them. header: pixels of header and frame."""
    rows = min(most, max(least, tree.topLevelItemCount))
    tree.setFixedHeight(rows * max(14, tree.sizeHintForRow(0)) + header)


def swatch(color: tuple[float, float, float]) -> Any:
    """A square of that color as an icon."""
    square = qt.QPixmap(14, 14)
    square.fill(qt.QColor.fromRgbF(*(min(1.0, max(0.0, c)) for c in color)))
    return qt.QIcon(square)
