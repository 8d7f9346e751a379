"""Keyboard shortcuts of the panel. They work in Slicer's whole window, so that slices can be corrected in the Segment
Editor and marked, one after the other, without going back to the panel."""

from __future__ import annotations

from typing import Any, Callable

import qt
import slicer

from RAUSlicerLib.i18n import tr as _

KEYS = {
    "run": "Ctrl+Shift+G",
    "cancel": "Ctrl+Shift+X",
    "next": "Ctrl+Shift+N",
    "right": "Ctrl+Shift+K",
    "propagate": "Ctrl+Shift+P",
    "accept": "Ctrl+Shift+B",
}
WORDS = {
    "run": _("segment from reference"),
    "cancel": _("cancel what is under way"),
    "next": _("next slice to review"),
    "right": _("this slice is right"),
    "propagate": _("propagate from the right slices"),
    "accept": _("accept into the bank"),
}


def keys_of(name: str) -> str:
    """As the system writes them: on a Mac with its own signs."""
    return str(qt.QKeySequence(KEYS[name]).toString(qt.QKeySequence.NativeText))


def tip(text: str, name: str) -> str:
    """A tooltip with the shortcut behind it."""
    return f"{text} ({keys_of(name)})"


def listed() -> list[str]:
    """A line for each: what it does, and its keys."""
    return [f"{keys_of(name)}: {words}" for name, words in WORDS.items()]


class Shortcuts:
    """panel: a widget; the shortcuts belong to the main window, or to it where there is none. actions: by name."""

    def __init__(self, panel: Any, actions: dict[str, Callable[[], None]]) -> None:
        parent = slicer.util.mainWindow() or panel
        self.shortcuts = {name: self._made(parent, name, action) for name, action in actions.items()}

    @staticmethod
    def _made(parent: Any, name: str, action: Callable[[], None]) -> Any:
        shortcut = qt.QShortcut(qt.QKeySequence(KEYS[name]), parent)
        shortcut.setContext(qt.Qt.ApplicationShortcut)
        shortcut.connect("activated()", lambda: action())
        return shortcut

    def close(self) -> None:
        for shortcut in self.shortcuts.values():
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self.shortcuts.clear()
