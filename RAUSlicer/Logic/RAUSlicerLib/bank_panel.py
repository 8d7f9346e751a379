"""The reference bank in the panel: its folder, what it holds, and which of its references the next run takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

import ctk
import qt
import slicer

from RAUSlicerLib.bank_entries import BankChoice, BankEntry, entries_of
from RAUSlicerLib.context import Context
from RAUSlicerLib.errand import Answer, Words
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.tables import VALUE_ROLE, columns, fit

FOLDER_SETTING = "RAUSlicer/BankFolder"
ICON = 40  # pixels of a thumbnail


class BankPanel:
    """on_change: called when the references that the bank gives are others."""

    def __init__(self, context: Context, on_change: Callable[[], None]) -> None:
        self.context, self.ui, self.on_change = context, context.ui, on_change
        self.entries: tuple[BankEntry, ...] = ()
        self._folder = ""  # that the entries are of
        self._quiet = False
        self._matches: dict[str, float | None] = {}
        self.ui.bankFolderEdit.filters = ctk.ctkPathLineEdit.Dirs
        columns(self.ui.bankTree, [_("Reference"), _("Kind"), _("Spacing"), _("Match")])
        self.ui.bankTree.setIconSize(qt.QSize(ICON, ICON))
        self.ui.bankTree.connect("itemChanged(QTreeWidgetItem*,int)", self._on_item)
        self.ui.bankListButton.connect("clicked(bool)", context.attempt(self.list))
        self.ui.useBankBox.connect("clicked(bool)", context.attempt(self._on_use))

    def start(self) -> None:
        """A new parameter node: without a folder in it, the last one that was used on this computer."""
        node = self.context.node()
        if node is not None and not node.bankFolder:
            node.bankFolder = slicer.app.userSettings().value(FOLDER_SETTING, "") or ""

    def forget(self) -> None:
        """The scene goes: what was listed was of its bank."""
        self._fill((), "")

    def show(self) -> None:
        """Follow the parameter node."""
        node = self.context.node()
        if self._folder and node.bankFolder.strip() != self._folder:
            self._fill((), "")
        self._quiet = True
        for index in range(self.ui.bankTree.topLevelItemCount):
            item = self.ui.bankTree.topLevelItem(index)
            on = item.data(0, VALUE_ROLE) in node.bankIds
            item.setCheckState(0, qt.Qt.Checked if on else qt.Qt.Unchecked)
        self._quiet = False
        self.ui.bankHintLabel.text = self._hint(node)
        self.ui.bankTree.visible = bool(self.entries)

    def choice(self) -> BankChoice | None:
        """What the next run takes from the bank; None: it takes nothing."""
        node = self.context.node()
        if not node.useBank:
            return None
        known = {one.entry_id for one in self.entries}
        return BankChoice(node.bankFolder.strip(), tuple(i for i in node.bankIds if i in known), self.entries)

    def folder(self) -> str:
        """Raises Problem when none is chosen."""
        found = str(self.context.node().bankFolder).strip()
        if not found:
            self.ui.bankSection.collapsed = False
            raise Problem(_("No folder is chosen for the reference bank"), _("Choose one under Reference bank"))
        return found

    def list(self) -> None:
        """Ask the worker what the bank holds."""
        folder = self.folder()
        self.context.ask("bank_list", Words({"bank": folder}), _("Reading the bank"), lambda a: self._listed(a, folder))

    def listed_folder(self) -> str:
        """The folder, where the next run may take references from it and it has been listed; else empty."""
        return self._folder if self.context.node().useBank and self.entries else ""

    def show_matches(self, matches: Mapping[str, float | None]) -> None:
        """How much the entries look like the target, by id; the best come first."""
        if dict(matches) == self._matches:
            return
        self._matches = dict(matches)
        order = sorted(self.entries, key=lambda one: -(self._matches.get(one.entry_id) or 0.0))
        self._fill(tuple(order), self._folder)

    def used(self, folder: str) -> None:
        """The user has worked with this bank: offer it again in the next session."""
        slicer.app.userSettings().setValue(FOLDER_SETTING, folder)

    def _listed(self, answer: Answer, folder: str) -> None:
        if answer.problem is not None:
            raise answer.problem
        entries = entries_of(answer.report["entries"])
        self.used(folder)
        self._fill(entries, folder)
        if not answer.report["exists"]:
            self.context.tell("info", _("There is no bank yet."), _("It is made when the first result is accepted."))
        elif answer.warnings:
            self.context.tell("warning", answer.warnings[0], *answer.warnings[1:3])
        else:
            self.context.message.show(None)
        self.on_change()

    def _fill(self, entries: tuple[BankEntry, ...], folder: str) -> None:
        if folder != self._folder:
            self._matches = {}
        self.entries, self._folder = entries, folder
        self._quiet = True
        self.ui.bankTree.clear()
        for one in entries:
            self.ui.bankTree.addTopLevelItem(_item(one, self._matches.get(one.entry_id)))
        fit(self.ui.bankTree, most=4)
        self._quiet = False

    def _hint(self, node: Any) -> str:
        if not node.useBank:
            return ""
        if not self.entries:
            return _("Press List to see what the bank holds.")
        ticked = len(self.choice().ids)
        if ticked:
            return _("{n} ticked: the next run takes these.").format(n=ticked)
        return _("None is ticked: the bank chooses those most like the target.")

    def _on_use(self) -> None:
        node = self.context.node()
        if node.useBank and not self.entries and node.bankFolder.strip() and not self.context.logic.busy():
            self.list()
        self.on_change()

    def _on_item(self, item: Any, column: int) -> None:
        if self._quiet:
            return
        tree = self.ui.bankTree
        items = [tree.topLevelItem(i) for i in range(tree.topLevelItemCount)]
        node = self.context.node()
        node.bankIds = [one.data(0, VALUE_ROLE) for one in items if one.checkState(0) == qt.Qt.Checked]
        node.useBank = node.useBank or bool(node.bankIds)
        self.on_change()


def _item(entry: BankEntry, match: float | None) -> Any:
    score = "" if match is None else f"{match:.2f}"
    item = qt.QTreeWidgetItem([entry.headline, entry.kind, entry.spacing_text, score])
    item.setData(0, VALUE_ROLE, entry.entry_id)
    item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsSelectable)
    picture = qt.QPixmap(entry.thumbnail) if entry.thumbnail else qt.QPixmap()
    if not picture.isNull():
        item.setIcon(0, qt.QIcon(picture.scaled(ICON, ICON, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation)))
    for column in range(4):
        item.setToolTip(column, entry.tip())
    item.setCheckState(0, qt.Qt.Unchecked)
    return item
