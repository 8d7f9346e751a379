"""The panel during a run: the one button, the progress, what can be changed, and the state of the model process."""

from __future__ import annotations

from typing import Any

from RAUSlicerLib import shortcuts, wording
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.reference_rows import ReferenceRows
from RAUSlicerLib.run import RunState

INPUTS = (
    "addReferenceButton",
    "matchButton",
    "tryButton",
    "targetSelector",
    "outputSelector",
    "structuresTree",
    "promptEdit",
    "allButton",
    "noneButton",
    "modelBox",
    "deviceBox",
    "planesBox",
    "referencesPerSliceBox",
    "keepClearBox",
    "modelFolderEdit",
    "pythonEdit",
    "bankFolderEdit",
    "bankListButton",
    "useBankBox",
    "bankTree",
    "acceptButton",
    "exportButton",
    "describeButton",
    "propagateButton",
    "undoButton",
    "environmentSection",
    "remoteSection",
)
BUTTON = (
    "QPushButton:enabled {{ background-color: {0}; color: white; border: none; border-radius: 4px; }}"
    "QPushButton:enabled:hover {{ background-color: {1}; }} QPushButton:enabled:pressed {{ background-color: {2}; }}"
)
GO = BUTTON.format("#2a6fdb", "#3d80e8", "#2059b5")
STOP = BUTTON.format("#626b7a", "#737d8d", "#505866")


class RunView:
    def __init__(self, ui: Any, references: ReferenceRows) -> None:
        self.ui, self.references = ui, references

    def show(self, state: RunState) -> None:
        """Follow a run."""
        if state.over:
            self.show_idle()
            return
        button = self.ui.segmentButton
        button.text = _("Cancel")
        button.styleSheet = STOP
        button.enabled = state.phase != "cancelling"
        button.toolTip = shortcuts.tip(_("Stop; the scene becomes what it was before the run"), "cancel")
        self._enable(False)
        self.ui.progressFrame.visible = True
        value, maximum = wording.progress_value(state)
        self.ui.progressBar.maximum = maximum
        self.ui.progressBar.value = value
        self.ui.progressLabel.text = wording.progress_text(state)

    def show_errand(self, text: str) -> None:
        """The worker is at work on something else than a run."""
        self.ui.segmentButton.text = _("Cancel")
        self.ui.segmentButton.styleSheet = STOP
        self.ui.segmentButton.enabled = True
        self.ui.segmentButton.toolTip = shortcuts.tip(_("Stop"), "cancel")
        self._enable(False)
        self.ui.progressFrame.visible = True
        self.ui.progressBar.maximum = self.ui.progressBar.value = 0
        self.ui.progressLabel.text = text

    def show_idle(self) -> None:
        self.ui.segmentButton.text = _("Segment from reference")
        self.ui.segmentButton.styleSheet = GO
        self.ui.progressFrame.visible = False
        self._enable(True)

    def show_worker(self, state: str, ready: dict[str, Any] | None = None) -> None:
        """The line of the model process under Advanced."""
        texts = {"stopped": _("not running"), "starting": _("starting"), "ready": _("loaded, waiting")}
        device = str((ready or {}).get("device", "")) if state not in ("stopped", "starting") else ""
        text = texts.get(state, _("at work"))
        self.ui.workerLabel.text = f"{text} ({device})" if device else text
        self.ui.releaseButton.enabled = state == "ready"

    def _enable(self, enabled: bool) -> None:
        self.references.enable(enabled)
        for name in INPUTS:
            getattr(self.ui, name).enabled = enabled
