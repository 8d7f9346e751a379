"""The box for a server that computes: off until the user ticks it, agrees to what leaves the computer, has a token."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, Callable

import qt
import slicer

from RAUSlicerLib import remote_client
from RAUSlicerLib.environment import Launch
from RAUSlicerLib.form import line, row, say, small
from RAUSlicerLib.http_client import HttpClient, address_of
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.message_area import MessageArea
from RAUSlicerLib.problems import NOT_CHOSEN, Problem
from RAUSlicerLib.protocol import Message
from RAUSlicerLib.qt_process import QtProcess, later
from RAUSlicerLib.surroundings import surroundings
from RAUSlicerLib.wording import Notice, problem_notice
from RAUSlicerLib.worker_client import WorkerClient

ADDRESS_SETTING, TOKEN_SETTING = "RAUSlicer/RemoteAddress", "RAUSlicer/RemoteToken"
CONSENT_SETTING = "RAUSlicer/RemoteConsent"  # the addresses agreed to, a line each
PATIENCE_SECONDS = 60.0  # in which a lost connection may come back


class RemoteBox:
    """Fills `section`. on_change: called when runs go elsewhere than before. Nothing of it is ever in the scene."""

    def __init__(self, section: Any, on_change: Callable[[], None] = lambda: None) -> None:
        self.section, self.on_change = section, on_change
        self.test_client = WorkerClient(QtProcess, later)
        self.test_client.listener = self._on_answer
        self._build()
        settings = slicer.app.userSettings()
        self.address_edit.text = str(settings.value(ADDRESS_SETTING, "") or "")
        self.token_edit.text = str(settings.value(TOKEN_SETTING, "") or "")
        self.keep_box.checked = bool(self.token_edit.text)
        self._connect()
        self._show()

    def close(self) -> None:
        self.test_client.stop(wait=1.0)

    @property
    def on(self) -> bool:
        """Whether runs go to the server."""
        return bool(self.use_box.checked)

    def host(self) -> str:
        """Of the server that computes; empty while this computer does."""
        try:
            return address_of(self.address())[1] if self.on else ""
        except Problem:
            return "?"

    def launch(self) -> Launch:
        """How to start what talks to the server. Raises Problem: no address, no token, no consent."""
        address = self.address()
        if not str(self.token_edit.text).strip():
            raise Problem(_("The server needs its token"), _("Enter it under Remote: rau serve shows it"), NOT_CHOSEN)
        if not self.consent_box.checked:
            text = _("Agree under Remote that images go to {host}, or untick the server")
            raise Problem(text.format(host=address_of(address)[1]), kind=NOT_CHOSEN)
        return self._launch(address)

    def address(self) -> str:
        """Raises Problem when it is none."""
        address = str(self.address_edit.text).strip().rstrip("/")
        if not address:
            raise Problem(_("Enter the address of the server under Remote"), kind=NOT_CHOSEN)
        address_of(address)
        return address

    def _launch(self, address: str) -> Launch:
        token = str(self.token_edit.text).strip()
        HttpClient(address, token)  # both can be used
        given = {remote_client.ADDRESS: address, remote_client.TOKEN: token}
        given[remote_client.PATIENCE] = str(PATIENCE_SECONDS)
        variables = {**surroundings(), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **given}
        return Launch(python(), (remote_client.__file__,), tuple(sorted(variables.items())))

    # -- widgets
    def _build(self) -> None:
        layout = qt.QVBoxLayout(self.section)
        layout.setContentsMargins(6, 6, 6, 6)
        layout.setSpacing(6)
        self.use_box = qt.QCheckBox(_("Compute on a server (rau serve) instead of this computer"))
        self.use_box.name = "remoteUseBox"
        layout.addWidget(self.use_box)
        self.area, fields = qt.QWidget(), qt.QWidget()
        inside, form = qt.QVBoxLayout(self.area), qt.QFormLayout(fields)
        for one in (inside, form):
            one.setContentsMargins(0, 0, 0, 0)
        self.address_edit = qt.QLineEdit()
        self.address_edit.placeholderText = "https://gpu.hospital.example:8417"
        self.address_edit.toolTip = _("As rau serve prints it")
        self.token_edit = qt.QLineEdit()
        self.token_edit.echoMode = qt.QLineEdit.Password
        self.token_edit.toolTip = _("As rau serve prints it. Never kept in the scene")
        self.keep_box = qt.QCheckBox(_("Keep the token on this computer"))
        self.keep_box.toolTip = _("In Slicer's settings, as plain text; without it, enter it again after a restart")
        self.consent_box = qt.QCheckBox()
        self.consent_label = line("remoteConsentLabel")
        self.warning_label = small("remoteWarningLabel")
        self.test_button = qt.QPushButton(_("Test connection"))
        form.addRow(_("Address"), self.address_edit)
        form.addRow(_("Token"), self.token_edit)
        form.addRow("", self.keep_box)
        consent = row((self.consent_box, 0), (self.consent_label, 1))
        for one in (fields, consent, self.warning_label, self.test_button):  # long texts in no form: it squeezes them
            inside.addWidget(one)
        layout.addWidget(self.area)
        frame = qt.QFrame()
        frame.name = "remoteMessageFrame"
        inner = qt.QHBoxLayout(frame)
        sign, text = qt.QLabel(), line("remoteMessageLabel")
        inner.addWidget(sign, 0)
        inner.addWidget(text, 1)
        layout.addWidget(frame)
        self.message = MessageArea(frame, sign, text)

    def _connect(self) -> None:
        self.use_box.connect("toggled(bool)", lambda checked: self._changed())
        self.address_edit.connect("textChanged(QString)", lambda text: self._on_address())
        self.token_edit.connect("textChanged(QString)", lambda text: self._on_token())
        self.keep_box.connect("toggled(bool)", lambda checked: self._on_token())
        self.consent_box.connect("toggled(bool)", self._on_consent)
        self.test_button.connect("clicked(bool)", lambda checked=False: self.test())

    # -- what the user does
    def _on_address(self) -> None:
        slicer.app.userSettings().setValue(ADDRESS_SETTING, str(self.address_edit.text).strip())
        self._changed()

    def _on_token(self) -> None:
        kept = str(self.token_edit.text).strip() if self.keep_box.checked else ""
        slicer.app.userSettings().setValue(TOKEN_SETTING, kept)
        self._changed()

    def _on_consent(self, checked: bool) -> None:
        try:
            address = self.address()
        except Problem:
            address = ""
        agreed = [one for one in agreed_addresses() if one != address]
        if checked and address:
            agreed.append(address)
        slicer.app.userSettings().setValue(CONSENT_SETTING, "\n".join(agreed))
        self._changed()

    def _changed(self) -> None:
        self.message.show(None)
        self._show()
        self.on_change()

    def _show(self) -> None:
        self.area.visible = self.on
        try:
            address = self.address()
            secure, host, _port = address_of(address)
        except Problem:
            address, secure, host = "", True, ""
        blocked = self.consent_box.blockSignals(True)
        self.consent_box.checked = bool(address) and address in agreed_addresses()
        self.consent_box.blockSignals(blocked)
        self.consent_box.enabled = bool(address)
        say(self.consent_label, consent_text(host))
        plain = bool(address) and not secure and host not in ("127.0.0.1", "localhost", "::1")
        self.warning_label.text = (
            _("http: images and token travel unencrypted. Use https or a tunnel.") if plain else ""
        )
        self.warning_label.visible = plain

    # -- Test connection: a greeting, no image
    def test(self) -> None:
        try:
            launch = self._launch(self.address())
        except Problem as problem:
            self.message.show(problem_notice(problem))
            return
        self.test_client.stop()
        self.test_button.enabled = False
        self.message.show(Notice("info", _("Asking the server")))
        self.test_client.ensure(launch)

    def _on_answer(self, told: Message) -> None:
        self.test_button.enabled = True
        if told["event"] == "ready":
            versions = told.get("versions", {})
            facts = _("RAUSlicer {version}, computes on {device}")
            text = facts.format(
                version=versions.get("rau") or "?", device=str(told.get("device", "?")).partition(",")[0]
            )
            self.message.show(Notice("done", _("The server answers"), (text,)))
            self.test_client.stop()
        else:
            problem = Problem(str(told.get("message", "")), str(told.get("hint", "")), str(told.get("kind", "")))
            self.message.show(problem_notice(problem))


def consent_text(host: str) -> str:
    return _(
        "I agree: target and references (pixels, geometry, names of structures; no names of patients or files) leave "
        "this computer and go to {host}. I am allowed to send them there."
    ).format(host=host or _("this server"))


def agreed_addresses() -> list[str]:
    text = str(slicer.app.userSettings().value(CONSENT_SETTING, "") or "")
    return [one for one in text.split("\n") if one]


def python() -> str:
    """A Python with numpy: Slicer's own. Raises Problem."""
    name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
    beside = Path(str(getattr(slicer.app, "slicerHome", "") or "."), "bin", name)
    if beside.is_file():
        return str(beside)
    found = shutil.which("PythonSlicer")
    if found is None and "python" in Path(sys.executable).name.lower():  # without the application
        found = sys.executable
    if found is None:
        raise Problem(_("Slicer's own Python was not found"), _("Install Slicer again"), "EnvironmentError")
    return found
