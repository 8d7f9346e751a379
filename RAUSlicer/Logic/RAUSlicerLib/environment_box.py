"""The box in which the worker's own environment is set up, repaired and removed: one button, nothing modal."""

from __future__ import annotations

from typing import Any, Callable

import ctk
import qt
import slicer

from RAUSlicerLib import environment
from RAUSlicerLib.form import line, path_edit, row, say, small
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.installation import Installation, SetupState
from RAUSlicerLib.installation_files import digest
from RAUSlicerLib.installation_pins import REQUIREMENTS
from RAUSlicerLib.installation_plan import BUILDS, Options, gb
from RAUSlicerLib.message_area import MessageArea
from RAUSlicerLib.problems import Problem
from RAUSlicerLib.qt_process import QtProcess, later
from RAUSlicerLib.surroundings import surroundings
from RAUSlicerLib.wording import Notice, problem_notice

PYTHON_SETTING = "RAUSlicer/Python"
WHEELS_SETTING, PROXY_SETTING = "RAUSlicer/WheelFolder", "RAUSlicer/Proxy"
SURE_SECONDS = 6.0  # in which a second press of Remove counts


class EnvironmentBox:
    """Fills `section`, a collapsible one. stop_worker: called before files of the environment change; on_change: when
    the environment is another."""

    def __init__(
        self,
        section: Any,
        stop_worker: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.section, self.stop_worker, self.on_change = section, stop_worker, on_change
        home = str(getattr(slicer.app, "slicerHome", "") or "")
        self.installation = Installation(QtProcess, later, surroundings, home, self._on_state)
        self._sure = False
        self._phase = ""
        self._build()
        self._connect()
        self._on_state(self.installation.state)
        self._unfold()

    def _unfold(self) -> None:
        """Open while there is no Python to compute with."""
        try:
            environment.find_python(str(slicer.app.userSettings().value(PYTHON_SETTING, "") or ""), surroundings())
        except Problem:
            self.section.collapsed = False

    def close(self) -> None:
        """The application quits."""
        self.installation.on_state = lambda state: None
        self.installation.close()

    def options(self) -> Options:
        build = str(self.build_box.itemData(self.build_box.currentIndex))
        return Options(build, str(self.wheels_edit.currentPath), str(self.proxy_edit.text))

    # -- widgets
    def _build(self) -> None:
        layout = qt.QVBoxLayout(self.section)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.setSpacing(6)
        self.status_label = line("environmentLabel")
        layout.addWidget(self.status_label)
        layout.addWidget(self._options_area())
        self.plan_label = small("environmentPlanLabel")
        layout.addWidget(self.plan_label)
        self.main_button = qt.QPushButton()
        self.main_button.name = "setupButton"
        self.cancel_button = qt.QPushButton(_("Cancel"))
        self.cancel_button.toolTip = _("Stop; what was made so far is removed")
        self.remove_button = qt.QPushButton(_("Remove"))
        layout.addWidget(row((self.main_button, 1), (self.cancel_button, 0), (self.remove_button, 0)))
        self.progress_bar = qt.QProgressBar()
        self.progress_bar.maximum = 1000
        self.progress_bar.textVisible = False
        self.progress_bar.setMaximumHeight(8)
        self.progress_label = small("environmentProgressLabel")
        layout.addWidget(self.progress_bar)
        layout.addWidget(self.progress_label)
        frame = qt.QFrame()
        frame.name = "environmentMessageFrame"
        inner = qt.QHBoxLayout(frame)
        sign, text = qt.QLabel(), line("environmentMessageLabel")
        inner.addWidget(sign, 0)
        inner.addWidget(text, 1)
        layout.addWidget(frame)
        self.message = MessageArea(frame, sign, text)

    def _options_area(self) -> Any:
        self.options_area = qt.QWidget()
        form = qt.QFormLayout(self.options_area)
        form.setContentsMargins(0, 0, 0, 0)
        self.build_box = qt.QComboBox()
        for value, text in BUILDS:
            self.build_box.addItem(text, value)
        self.build_box.toolTip = _("Automatic: CUDA where an NVIDIA driver is found, else the CPU")
        settings = slicer.app.userSettings()
        self.wheels_edit = path_edit(ctk.ctkPathLineEdit.Dirs, str(settings.value(WHEELS_SETTING, "") or ""))
        self.wheels_edit.toolTip = _("Without a network: a folder with the .whl files; empty: download them")
        self.proxy_edit = qt.QLineEdit()
        self.proxy_edit.text = str(settings.value(PROXY_SETTING, "") or "")
        self.proxy_edit.placeholderText = _("as the system and pip have it")
        self.proxy_edit.toolTip = _("host:port of a proxy for the download; a password in it is not kept")
        form.addRow(_("PyTorch"), self.build_box)
        form.addRow(_("Wheel folder"), self.wheels_edit)
        form.addRow(_("Proxy"), self.proxy_edit)
        return self.options_area

    def _connect(self) -> None:
        self.main_button.connect("clicked(bool)", lambda checked=False: self.press())
        self.cancel_button.connect("clicked(bool)", lambda checked=False: self.installation.cancel())
        self.remove_button.connect("clicked(bool)", lambda checked=False: self._remove())
        self.build_box.connect("currentIndexChanged(int)", lambda index: self._changed())
        self.wheels_edit.connect("currentPathChanged(QString)", lambda path: self._changed())
        self.proxy_edit.connect("textChanged(QString)", lambda text: self._changed())

    # -- what the user does
    def press(self) -> None:
        """First what would be done is shown; pressed again, it is done."""
        if self.installation.state.busy:
            return
        self.message.show(None)
        if self.installation.state.phase == "asking":
            self.stop_worker()
            self.installation.start()
        else:
            self.installation.look(self.options())

    def _changed(self) -> None:
        """Another choice makes another plan."""
        options, settings = self.options(), slicer.app.userSettings()
        settings.setValue(WHEELS_SETTING, options.wheels)
        settings.setValue(PROXY_SETTING, "" if "@" in options.proxy else options.proxy)
        if self.installation.state.phase == "asking":
            self.installation.cancel()

    def _remove(self) -> None:
        if not self._sure:
            self._sure = True
            self.remove_button.text = _("Press again to remove")
            later(SURE_SECONDS, self._not_sure)
            return
        self._not_sure()
        self.message.show(None)
        self.stop_worker()
        self.installation.remove()

    def _not_sure(self) -> None:
        self._sure = False
        self.remove_button.text = _("Remove")

    # -- what the set-up tells
    def _on_state(self, state: SetupState) -> None:
        asking = state.phase == "asking"
        there = state.phase in ("made", "half", "failed") and self.installation.root.is_dir()
        self.main_button.text = self._main_text(state)
        self.main_button.visible = not state.busy
        self.main_button.toolTip = _("Shows first what would be downloaded, and from where")
        self.cancel_button.visible = (state.busy and state.phase != "removing") or asking
        self.remove_button.visible = there
        self.options_area.enabled = not state.busy
        self.plan_label.visible = asking
        say(self.plan_label, "\n".join(state.plan.words()) if asking and state.plan else "")
        self.progress_bar.visible = self.progress_label.visible = state.busy
        self.progress_bar.value = int(1000 * state.done)
        self.progress_label.text = state.text
        self.status_label.text = status_text(state)
        if state.problem is not None:
            self.message.show(problem_notice(state.problem))
        if state.phase != self._phase and state.phase in ("made", "none", "half", "failed"):
            if state.phase == "made" and self._phase == "checking":
                self.message.show(Notice("done", _("The environment is ready")))
            self.on_change()
        self._phase = state.phase

    def _main_text(self, state: SetupState) -> str:
        if state.phase == "asking" and state.plan is not None:
            return _("Install") if state.plan.wheels is not None else _("Download and install")
        if state.phase in ("half", "failed") and self.installation.root.is_dir():
            return _("Go on with the set-up")
        return _("Repair") if state.phase == "made" else _("Set up RAUSlicer's Python environment")


def status_text(state: SetupState) -> str:
    """What there is, in a line."""
    if state.made is None:
        half = _("The set-up was broken off. What it has made so far can be gone on with, or removed.")
        none = _("RAUSlicer computes in a Python of its own, apart from Slicer's. It has to be set up once.")
        return half if state.phase == "half" else none
    torch = str(state.made.get("versions", {}).get("torch") or "?")
    device = {"cuda": _("GPU"), "cpu": _("CPU")}.get(str(state.made.get("device")), "?")
    text = _("Ready: PyTorch {version}, {device}").format(version=torch, device=device)
    size = float(state.made.get("bytes") or 0)
    text += f", {gb(size)}" if size else ""
    if state.made.get("pins") and state.made["pins"] != digest(REQUIREMENTS):
        text += ". " + _("It was made for another version of the extension: press Repair.")
    return text
