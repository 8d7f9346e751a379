"""Whether a run can start, told at the button and in the message area; and what is known before the run."""

from __future__ import annotations

from typing import Any, Callable

from RAUSlicerLib import preflight, preflight_words, shortcuts, wording
from RAUSlicerLib.bank_panel import BankPanel
from RAUSlicerLib.context import Context
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.inputs import ReferenceNodes
from RAUSlicerLib.preflight_box import PreflightBox
from RAUSlicerLib.problems import NOT_CHOSEN, Problem
from RAUSlicerLib.reference_rows import ReferenceRows
from RAUSlicerLib.remote_box import RemoteBox
from RAUSlicerLib.structure_list import StructureList


class Readiness:
    """chosen: gives the references of the scene."""

    def __init__(
        self,
        context: Context,
        chosen: Callable[[], list[ReferenceNodes]],
        references: ReferenceRows,
        structures: StructureList,
        bank: BankPanel,
        box: PreflightBox,
        remote: RemoteBox,
    ) -> None:
        self.context, self.chosen, self.references = context, chosen, references
        self.structures, self.bank, self.box, self.remote = structures, bank, box, remote
        self._told: Any = None

    def problem(self) -> Problem | None:
        """Why the run cannot start; None when it can."""
        node = self.context.node()
        try:
            if self.structures.says_none():
                hint = _("Name some of them, or empty the field")
                raise Problem(_("What you say names none of the structures"), hint, NOT_CHOSEN)
            preflight.check(
                self.chosen(),
                node.targetVolume,
                self.structures.wanted(),
                node.outputSegmentation,
                self.references.unfinished(),
                self.bank.choice(),
            )
            self.context.logic.launch_of_run(self.context.python(), self.bank.choice())
        except Problem as problem:
            return problem
        return None

    def show(self) -> None:
        problem, button = self.problem(), self.context.ui.segmentButton
        button.enabled = problem is None
        button.toolTip = str(problem) if problem else shortcuts.tip(_("Segment the target from the references"), "run")
        notice, before = wording.problem_notice(problem) if problem else None, self._told
        self._told = notice
        message = self.context.message
        if message.notice in (None, before) or (notice is not None and notice != before):
            message.show(notice)
        self._show_before_the_run()

    def _show_before_the_run(self) -> None:
        node, ready = self.context.node(), str(self.context.logic.client.ready.get("device", ""))
        machine = preflight_words.Machine(self.remote.host(), node.device, ready, self.box.gpu)
        choice = (node.model, node.modelFolder, node.planes)
        self.box.show(preflight_words.lines(self.chosen(), node.targetVolume, machine, *choice))
