"""The result in the panel: trust in each structure, the slices to review, undo, and the way to the Segment Editor."""

from __future__ import annotations

import html
from dataclasses import replace
from typing import Any

import qt
import slicer

from RAUSlicerLib import slice_views, trust
from RAUSlicerLib.case_inputs import CaseInputs
from RAUSlicerLib.context import Context
from RAUSlicerLib.errand import Answer
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import key_of
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.run import RunState
from RAUSlicerLib.tables import VALUE_ROLE, columns, fit, swatch
from RAUSlicerLib.trust import RunResult, StructureTrust
from RAUSlicerLib.writer import remove_run, segments_of_run, show_run


class ResultPanel:
    """Shows the result that the parameter node keeps, and answers to what the user does with it."""

    def __init__(self, context: Context) -> None:
        self.context, self.ui = context, context.ui
        self.result: RunResult | None = None
        self._text: str | None = None
        columns(self.ui.resultTree, [_("Structure"), _("Trust"), _("Volume")])
        columns(self.ui.reviewTree, [_("Look at"), _("Slice"), _("Score")])
        self.ui.resultTree.connect("currentItemChanged(QTreeWidgetItem*,QTreeWidgetItem*)", self._on_structure)
        self.ui.reviewTree.connect("itemClicked(QTreeWidgetItem*,int)", self._on_slice)
        self.ui.reviewTree.connect("itemActivated(QTreeWidgetItem*,int)", self._on_slice)
        self.ui.reviewTree.connect("currentItemChanged(QTreeWidgetItem*,QTreeWidgetItem*)", self._on_slice)
        for name, function in (
            ("undoButton", self.undo),
            ("editButton", self.edit),
            ("describeButton", self.describe),
            ("nextButton", self.next_slice),
        ):
            getattr(self.ui, name).connect("clicked(bool)", context.attempt(function))

    # -- state
    def keep(self, state: RunState, run_id: str, corrected: bool = False) -> None:
        """Put a finished run into the parameter node. corrected: it comes in place of the last one, which is hidden."""
        node = self.context.node()
        before = replace(self.result, before="") if corrected and self.result else None
        blocked = node.StartModify()
        try:
            node.lastRun = run_id
            node.result = trust.result_of(run_id, state.report, before.as_text() if before else "").as_text()
            node.rightSlices = node.rightSlices if corrected else []
        finally:
            node.EndModify(blocked)
        if before and node.outputSegmentation is not None:
            show_run(node.outputSegmentation, before.run, False)

    def show(self) -> None:
        """Follow the parameter node."""
        node = self.context.node()
        output = node.outputSegmentation
        mine = bool(output and segments_of_run(output, node.lastRun)) and not self.context.logic.running()
        self.ui.resultSection.visible = mine
        self.ui.show3DButton.setSegmentationNode(output if mine else None)
        if node.result != self._text:
            self._text = node.result
            found = trust.result_from(node.result)
            self.result = found if found is not None and found.run == node.lastRun else None
            self._fill()

    def chosen(self) -> StructureTrust | None:
        """The structure of the current row."""
        item = self.ui.resultTree.currentItem()
        value = item.data(0, VALUE_ROLE) if item is not None else None
        return next((one for one in self.result.structures if one.value == value), None) if self.result else None

    # -- tables
    def _fill(self) -> None:
        result, chosen = self.result, self.chosen()
        self.ui.resultTree.clear()
        self.ui.reviewTree.clear()
        worst = (result.doubtful or [None])[0] if result else None
        for one in result.structures if result else ():
            item = _structure_item(one, result.level if result else None)
            self.ui.resultTree.addTopLevelItem(item)
            if one.value == (chosen or worst or one).value:
                self.ui.resultTree.setCurrentItem(item)
                chosen = one
        for slice_ in result.review if result else ():
            item = qt.QTreeWidgetItem([slice_.worst, str(slice_.index), f"{slice_.score:.2f}"])
            item.setData(0, VALUE_ROLE, slice_.index)
            self.ui.reviewTree.addTopLevelItem(item)
        fit(self.ui.resultTree)
        fit(self.ui.reviewTree)
        self.ui.reviewArea.visible = bool(result and result.review)
        self._on_structure()

    def _on_structure(self, *_items: Any) -> None:
        one = self.chosen()
        text = trust.details(one, self.result.level) if one and self.result else ""
        if self.ui.detailsText.plainText != text:
            self.ui.detailsText.setPlainText(text)

    def _on_slice(self, item: Any, *_more: Any) -> None:
        """A click, Return, or the arrow keys."""
        if item is None or self.result is None:
            return
        index = int(item.data(0, VALUE_ROLE))
        self.context.attempt(lambda: self._jump(index))()

    def next_slice(self) -> None:
        """The next slice to review comes into view; after the last the first."""
        tree = self.ui.reviewTree
        count, current = tree.topLevelItemCount, tree.currentItem()
        if count and self.ui.resultSection.visible:
            row = 0 if current is None else (tree.indexOfTopLevelItem(current) + 1) % count
            tree.setCurrentItem(tree.topLevelItem(row))
            self._on_slice(tree.topLevelItem(row))

    def _jump(self, index: int) -> None:
        target = self.context.node().targetVolume
        if target is None or target.GetImageData() is None or self.result is None:
            raise Problem(_("The target volume has left the scene"))
        slice_views.jump_to(target, self.result.axis, index)

    # -- buttons
    def undo(self) -> None:
        """Remove the run's segments; the result that it corrected, if any, is there again."""
        node = self.context.node()
        output, run = node.outputSegmentation, node.lastRun
        if output is None or not run or self.context.logic.busy():
            return
        count = remove_run(output, run)
        before = trust.result_from(self.result.before) if self.result else None
        blocked = node.StartModify()
        try:
            node.lastRun = before.run if before else ""
            node.result = before.as_text() if before else ""
        finally:
            node.EndModify(blocked)
        if before and node.outputSegmentation is not None:
            show_run(node.outputSegmentation, before.run, True)
        self.context.update()
        self.context.tell("info", _("The run is undone: {n} segments removed").format(n=count))

    def describe(self) -> None:
        """Measure the shown segments as they are now, and put them in words."""
        node, result = self.context.node(), self.result
        if node.targetVolume is None or node.outputSegmentation is None or result is None:
            raise Problem(_("The target or its segmentation has left the scene"), _("Pick both"))
        values = {key_of(one.name): one.value for one in result.structures}

        def end(answer: Answer) -> None:
            if answer.problem is not None:
                raise answer.problem
            told = {key_of(str(one["facts"]["name"])): str(one["text"]) for one in answer.report["structures"]}
            self._keep_result(result.with_texts({values[key]: told[key] for key in told if key in values}))

        inputs = CaseInputs(node.targetVolume, node.outputSegmentation)
        self.context.ask("describe", inputs, _("Measuring the structures"), end)

    def _keep_result(self, result: RunResult) -> None:
        node = self.context.node()
        if node.lastRun == result.run:
            node.result = result.as_text()

    def edit(self) -> None:
        """The Segment Editor on the result."""
        node = self.context.node()
        slicer.util.selectModule("SegmentEditor")
        editor = slicer.modules.segmenteditor.widgetRepresentation().self().editor
        editor.setSegmentationNode(node.outputSegmentation)
        editor.setSourceVolumeNode(node.targetVolume)


def _structure_item(one: StructureTrust, level: float | None) -> Any:
    item = qt.QTreeWidgetItem([one.name, trust.trust_text(one), trust.volume_text(one)])
    item.setData(0, VALUE_ROLE, one.value)
    item.setIcon(0, swatch(one.color))
    item.setForeground(1, qt.QBrush(qt.QColor(trust.COLORS[one.light])))
    tip = "<br>".join(html.escape(line) for line in trust.details(one, level).splitlines())
    for column in range(3):
        item.setToolTip(column, f"<qt>{tip}</qt>")
    return item
