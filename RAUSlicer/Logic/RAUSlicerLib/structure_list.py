"""The structures in the panel: a checkable list with the colors of the reference, narrowed by what the user says."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Callable

import qt

from RAUSlicerLib.inputs import Structure, key_of
from RAUSlicerLib.tables import fit, swatch


class StructureList:
    """Fills a QTreeWidget. on_change is called when the user checks or unchecks."""

    def __init__(self, tree: Any, on_change: Callable[[], None]) -> None:
        self.tree, self.on_change = tree, on_change
        self.structures: tuple[Structure, ...] = ()
        self.text = ""
        self._quiet = False
        tree.setColumnCount(1)
        tree.setHeaderHidden(True)
        tree.connect("itemChanged(QTreeWidgetItem*,int)", self._on_item)

    def show(self, structures: Sequence[Structure], excluded: Collection[str], text: str = "") -> None:
        """These structures, all checked but the excluded ones. text: which of them are wanted; empty: all."""
        self._show(structures, excluded)
        if text != self.text or any(not self.says(one) for one in self.structures):
            self.text = text
            self._grey()

    def _grey(self) -> None:
        """Those that the text does not name."""
        self._quiet = True
        for index, one in enumerate(self.structures):
            brush = qt.QBrush() if self.says(one) else qt.QBrush(qt.QColor("gray"))
            self.tree.topLevelItem(index).setForeground(0, brush)
        self._quiet = False

    def says(self, structure: Structure) -> bool:
        """Whether the text, if there is one, has the structure's name as whole words."""
        return not self.text.strip() or named_in(self.text, structure.name)

    def says_none(self) -> bool:
        """Whether there is a text that names none of the structures."""
        return bool(self.structures) and not any(self.says(one) for one in self.structures)

    def _show(self, structures: Sequence[Structure], excluded: Collection[str]) -> None:
        keys = {key_of(name) for name in excluded}
        wanted = [key_of(one.name) not in keys for one in structures]
        if tuple(structures) == self.structures and wanted == self._checked():
            return
        self._quiet = True
        try:
            if tuple(structures) != self.structures:
                self.structures = tuple(structures)
                self.tree.clear()
                for one in structures:
                    self.tree.addTopLevelItem(self._item(one))
                fit(self.tree, most=12, least=4, header=8)
            for index, on in enumerate(wanted):
                state = qt.Qt.Checked if on else qt.Qt.Unchecked
                self.tree.topLevelItem(index).setCheckState(0, state)
        finally:
            self._quiet = False

    def excluded(self) -> list[str]:
        """Names that are not checked."""
        return [one.name for one, on in zip(self.structures, self._checked()) if not on]

    def wanted(self) -> list[Structure]:
        return [one for one, on in zip(self.structures, self._checked()) if on and self.says(one)]

    def check_all(self, on: bool) -> None:
        self._quiet = True
        for index in range(len(self.structures)):
            self.tree.topLevelItem(index).setCheckState(0, qt.Qt.Checked if on else qt.Qt.Unchecked)
        self._quiet = False
        self.on_change()

    def _checked(self) -> list[bool]:
        return [self.tree.topLevelItem(i).checkState(0) == qt.Qt.Checked for i in range(len(self.structures))]

    @staticmethod
    def _item(structure: Structure) -> Any:
        item = qt.QTreeWidgetItem()
        item.setText(0, structure.name)
        item.setIcon(0, swatch(structure.color))
        item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsSelectable)
        return item

    def _on_item(self, item: Any, column: int) -> None:
        if not self._quiet:
            self.on_change()


def named_in(text: str, name: str) -> bool:
    """Whether a text has a name in it as whole words; case does not matter. As the engine has it."""
    return re.search(rf"(?<!\w){re.escape(key_of(name))}(?!\w)", text.lower()) is not None
