"""The message area of the panel: one notice at a time, in a frame whose color tells its kind. Nothing modal."""

from __future__ import annotations

from typing import Any

from RAUSlicerLib.wording import Notice

EDGES = {"info": "#5b8def", "done": "#2e9e5b", "warning": "#d08a00", "error": "#d0342c"}
SIGNS = {"info": "\u2139", "done": "\u2714", "warning": "\u26a0", "error": "\u2716"}


class MessageArea:
    """frame: a QFrame; sign and text: QLabels in it."""

    def __init__(self, frame: Any, sign: Any, text: Any) -> None:
        self.frame, self.sign, self.text = frame, sign, text
        self.notice: Notice | None = None
        self.show(None)

    def show(self, notice: Notice | None) -> None:
        if notice is not None and notice == self.notice:
            return
        self.notice = notice
        self.frame.setVisible(notice is not None)
        if notice is None:
            return
        edge = EDGES[notice.kind]
        red, green, blue = (int(edge[i : i + 2], 16) for i in (1, 3, 5))
        # A tint over the theme's own background: reads in the light and in the dark theme.
        self.frame.setStyleSheet(
            f"QFrame#{self.frame.name} {{ border: none; border-left: 4px solid {edge}; border-radius: 3px;"
            f" background-color: rgba({red}, {green}, {blue}, 36); }}"
        )
        self.sign.setStyleSheet(f"color: {edge}; font-size: 15px;")
        self.sign.text = SIGNS[notice.kind]
        self.text.text = notice.as_html()
