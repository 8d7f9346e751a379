"""The structures in the panel: a checkable list with the colors of the reference."""

from __future__ import annotations

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
        self._quiet = False
        tree.setColumnCount(1)
        tree.setHeaderHidden(True)
        tree.connect("itemChanged(QTreeWidgetItem*,int)", self._on_item)

    def show(self, structures: Sequence[Structure], excluded: Collection[str]) -> None:
        """These structures, all checked but the excluded ones."""
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
        return [one for one, on in zip(self.structures, self._checked()) if on]

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
