"""What a user does, for several files of tests."""

from __future__ import annotations

from typing import Any


def settle(host: Any, seconds: float = 0.05) -> None:
    host.spin(lambda: False, seconds)


def run(host: Any, panel: Any) -> None:
    """Press the button and wait for a result."""
    assert panel.ui.segmentButton.enabled, panel.ui.segmentButton.toolTip
    panel.ui.segmentButton.click()
    finish(host, panel)


def finish(host: Any, panel: Any) -> None:
    assert host.spin(lambda: panel.logic.run.state.over, 120)
    settle(host)
    assert panel.logic.run.state.phase == "done", panel.logic.run.state


def press(host: Any, panel: Any, name: str) -> str:
    """Press a button whose answer comes from the worker; what the panel says then."""
    button = getattr(panel.ui, name)
    assert button.enabled, name
    button.click()
    assert host.spin(lambda: not panel.logic.busy(), 60)
    settle(host)
    return said(panel)


def said(panel: Any) -> str:
    notice = panel.message.notice
    return " ".join((notice.title, *notice.lines)) if notice else ""


def rows(tree: Any) -> list[list[str]]:
    items = [tree.topLevelItem(i) for i in range(tree.topLevelItemCount)]
    return [[item.text(column) for column in range(tree.columnCount)] for item in items]


def choose(box: Any, data: str) -> None:
    box.setCurrentIndex(box.findData(data))
