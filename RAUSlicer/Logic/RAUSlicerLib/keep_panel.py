"""Keeping a result: accept it into the bank, save it as a node or a file, write a report of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ctk
import slicer

from RAUSlicerLib import patient
from RAUSlicerLib.bank_panel import BankPanel
from RAUSlicerLib.case_inputs import CaseInputs, shown_segments
from RAUSlicerLib.context import Context
from RAUSlicerLib.dicom_source import source_files
from RAUSlicerLib.errand import Answer
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.nodes import string_array
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.result_panel import ResultPanel
from RAUSlicerLib.trust import RunResult

EXPORT_SETTING = "RAUSlicer/ExportFolder"
NODE = ""  # the ending of what is no file
FORMATS = (
    (".seg.nrrd", _("Segmentation file (.seg.nrrd)")),
    (".nii.gz", _("Label map file (.nii.gz)")),
    (".dcm", _("DICOM SEG (.dcm)")),
    (".html", _("Report on one page (.html)")),
    (NODE, _("Label map in the scene")),
)


class KeepPanel:
    def __init__(self, context: Context, result: ResultPanel, bank: BankPanel) -> None:
        self.context, self.ui, self.result, self.bank = context, context.ui, result, bank
        self._confirmed = ""  # the file that a second press replaces
        self.ui.exportPathEdit.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Writable
        for ending, text in FORMATS:
            self.ui.exportBox.addItem(text, ending)
        self.ui.exportBox.connect("currentIndexChanged(int)", lambda index: self._suggest())
        self.ui.acceptButton.connect("clicked(bool)", context.attempt(self.accept))
        self.ui.exportButton.connect("clicked(bool)", context.attempt(self.export))
        self._suggest()

    def show(self) -> None:
        """Follow the parameter node."""
        node = self.context.node()
        self.ui.keepSection.visible = node.outputSegmentation is not None and not self.context.logic.running()
        self.ui.acceptFolderLabel.text = node.bankFolder.strip() or _("(choose its folder under Reference bank)")

    # -- the bank
    def accept(self) -> None:
        """Target and shown segments, as they are now, go into the bank."""
        target, segmentation = self._case()
        folder = self.bank.folder()
        fields = {"title": self.ui.titleEdit, "body_part": self.ui.bodyPartEdit, "note": self.ui.noteEdit}
        texts = {name: str(edit.text).strip() for name, edit in fields.items()}
        names = {_("The title"): texts["title"], _("The body part"): texts["body_part"], _("The note"): texts["note"]}
        patient.refuse(target, {**names, **self._structure_names(segmentation)})
        more = {"bank": folder, **texts, "provenance": self._provenance()}

        def end(answer: Answer) -> None:
            if answer.problem is not None:
                raise answer.problem
            self.bank.used(folder)
            self._accepted(answer, target, segmentation)

        self.context.ask("accept", CaseInputs(target, segmentation, more), _("Putting the case into the bank"), end)

    def _accepted(self, answer: Answer, target: Any, segmentation: Any) -> None:
        label, names = str(answer.report["label"]), ", ".join(answer.report["structures"])
        lines = (_("Structures: {names}").format(names=names), *answer.warnings)
        title = _("The bank has this case already, as {label}").format(label=label) + "."
        if not answer.report["known"]:
            title = _("Accepted into the bank as {label}").format(label=label) + "."
            for edit in (self.ui.titleEdit, self.ui.noteEdit):
                edit.text = ""
        path = beside_scene(str(answer.report["id"]))
        if path is None:
            lines = (*lines, _("Once the scene is saved, what is accepted is written beside it as well."))
        self.context.tell("done", title, *lines)
        if path is not None and not path.exists():
            self._save_beside(path, target, segmentation, (title, *lines))

    def _save_beside(self, path: Path, target: Any, segmentation: Any, told: tuple[str, ...]) -> None:
        """What was accepted, as a file beside the scene that is saved already: it outlives a crash."""

        def end(answer: Answer) -> None:
            if answer.problem is not None:
                self.context.tell("warning", *told, _("Beside the scene: {why}").format(why=answer.problem))
            else:
                self.context.tell("done", *told, _("Beside the scene: {name}").format(name=path.name))

        more = {"path": str(path), "provenance": self._provenance(), "source_dicom": []}
        self.context.ask("export", CaseInputs(target, segmentation, more, flat=True), _("Saving beside the scene"), end)

    def _structure_names(self, segmentation: Any) -> dict[str, str]:
        names = [one.name for one in shown_segments(segmentation)]
        return {_("The name of structure {n}").format(n=n): name for n, name in enumerate(names, start=1)}

    # -- files and nodes
    def export(self) -> None:
        """Save the shown segments in the form that is chosen."""
        target, segmentation = self._case()
        ending = self._ending()
        if ending == NODE:
            self._export_node(target, segmentation)
            return
        path = self._path(ending)
        more: dict[str, Any] = {"path": str(path), "provenance": self._provenance()}
        if ending == ".html":
            patient.refuse(target, self._structure_names(segmentation))
            more.update(page_of(self.result.result, self._nodes()))
            inputs, op = CaseInputs(target, segmentation, more), "page"
        else:
            more["source_dicom"] = source_files(target) if ending == ".dcm" else []
            inputs, op = CaseInputs(target, segmentation, more, flat=True), "export"

        def end(answer: Answer) -> None:
            if answer.problem is not None:
                raise answer.problem
            slicer.app.userSettings().setValue(EXPORT_SETTING, str(path.parent))
            alone = ending == ".dcm" and not more["source_dicom"]
            lines = [_("The DICOM files of the target are not known: the file refers to none.")] if alone else []
            self.context.tell("done", _("Written: {name}").format(name=answer.report["file"]), *lines, *answer.warnings)

        self.context.ask(op, inputs, _("Writing the file"), end)

    def _export_node(self, target: Any, segmentation: Any) -> None:
        ids = string_array([one.segment_id for one in shown_segments(segmentation)])
        name = slicer.mrmlScene.GenerateUniqueName(f"{segmentation.GetName()} labels")
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        if not logic.ExportSegmentsToLabelmapNode(segmentation, ids, node, target):
            slicer.mrmlScene.RemoveNode(node)
            raise Problem(_("The label map could not be made"), _("Save a file instead"))
        self.context.tell("done", _("In the scene: {name}").format(name=name))

    def _ending(self) -> str:
        return str(self.ui.exportBox.itemData(self.ui.exportBox.currentIndex) or NODE)

    def _path(self, ending: str) -> Path:
        """Where to write. Raises Problem: nothing chosen, another ending, a file that is there already (once)."""
        text = str(self.ui.exportPathEdit.currentPath).strip()
        path = Path(text).expanduser()
        if not text or not path.name:
            raise Problem(_("No file is chosen"), _("Choose where to save"))
        if not path.name.endswith(ending):
            raise Problem(_("The name of the file does not end in {e}").format(e=ending), _("Change it"))
        if path.exists() and self._confirmed != str(path):
            self._confirmed = str(path)
            raise Problem(
                _("The file {name} is there already").format(name=path.name), _("Press Save again to replace it")
            )
        self._confirmed = ""
        return path

    def _suggest(self) -> None:
        """The file name with the ending that is chosen; it never holds the name of a node."""
        ending = self._ending()
        self.ui.exportPathEdit.enabled = ending != NODE
        if ending == NODE:
            return
        path = Path(str(self.ui.exportPathEdit.currentPath).strip() or self._first_path())
        known = next((one for one, _text in FORMATS if one and path.name.endswith(one)), "")
        self.ui.exportPathEdit.currentPath = str(path.with_name(path.name.removesuffix(known) + ending))

    @staticmethod
    def _first_path() -> str:
        folder = slicer.app.userSettings().value(EXPORT_SETTING, "") or str(Path.home())
        return str(Path(folder) / "segmentation")

    # -- the case
    def _case(self) -> tuple[Any, Any]:
        """(target, segmentation). Raises Problem."""
        node = self.context.node()
        if node.targetVolume is None or node.outputSegmentation is None:
            raise Problem(_("The target or its segmentation has left the scene"), _("Pick both"))
        return node.targetVolume, node.outputSegmentation

    def _provenance(self) -> dict[str, Any]:
        return (self.result.result.provenance or {}) if self.result.result else {}

    def _nodes(self) -> dict[str, Any]:
        """Nodes whose names must not be in a report, by what stands in their place."""
        node = self.context.node()
        found = {_("the segmentation"): node.outputSegmentation, _("the target"): node.targetVolume}
        for number, one in enumerate(node.referenceVolumes, start=1):
            found[_("reference {n}").format(n=number)] = one
        for number, one in enumerate(node.referenceSegmentations, start=1):
            found[_("the segmentation of reference {n}").format(n=number)] = one
        return dict(sorted(found.items(), key=lambda item: -len(item[1].GetName() if item[1] else "")))


def beside_scene(entry_id: str) -> Path | None:
    """Where an accepted case is saved; None while the scene has no file."""
    url = str(slicer.mrmlScene.GetURL() or "")
    folder = Path(url).parent
    return folder / f"accepted-{entry_id[:8]}.seg.nrrd" if url and Path(url).is_file() else None


def page_of(result: RunResult | None, nodes: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `page` message: what the run said."""
    if result is None:
        return {}
    rows = [
        {
            "name": one.name,
            "light": one.light,
            "expected": one.expected,
            "low": one.low,
            "high": one.high,
            "broken": list(one.broken),
            "voxels": one.voxels,
        }
        for one in result.structures
    ]
    return {"trust": rows, "level": result.level, "warnings": list(patient.without_names(result.warnings, nodes))}
