"""What is known before a run, in the panel: a line each, and how many of them deserve a look in the title."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import qt

from RAUSlicerLib.form import line, say
from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.installation_system import Gpu, clean, gpu_from, gpu_launch
from RAUSlicerLib.message_area import EDGES, SIGNS
from RAUSlicerLib.preflight_words import Line
from RAUSlicerLib.qt_process import QtProcess
from RAUSlicerLib.surroundings import surroundings

KINDS = {True: "done", False: "warning", None: "info"}


class PreflightBox:
    """Fills `section`. gpu: the graphics card once the driver has told it."""

    def __init__(self, section: Any) -> None:
        self.section = section
        self.gpu: Gpu | None = None
        layout = qt.QVBoxLayout(section)
        layout.setContentsMargins(6, 6, 6, 6)
        self.label = line("preflightLabel")
        layout.addWidget(self.label)
        self.lines: list[Line] = []
        self._process: Any = None
        self._ask_driver()

    def show(self, lines: Sequence[Line]) -> None:
        self.lines = list(lines)
        doubtful = sum(one.good is False for one in lines)
        title = _("Before the run")
        self.section.text = title + (": " + _("{n} to look at").format(n=doubtful) if doubtful else "")
        say(self.label, "".join(_as_html(one) for one in lines))

    def _ask_driver(self) -> None:
        launch = gpu_launch(clean(surroundings()))
        if launch is None:
            return
        process, said = QtProcess(), bytearray()

        def ended(status: int | None) -> None:
            self._process = None
            self.gpu = gpu_from(said.decode("utf-8", "replace")) if status == 0 else None

        process.on_output = said.extend
        process.on_finished = ended
        self._process = process
        process.start(launch)


def _as_html(one: Line) -> str:
    kind = KINDS[one.good]
    sign = f"<span style='color:{EDGES[kind]}'>{SIGNS[kind]}</span>"
    return f"<div style='margin-bottom:3px'>{sign} {html.escape(one.text)}</div>"
