"""The keyboard: each shortcut does what its button does, says so in the tooltip, and is gone with the panel."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import slicer_lazy as lazy
from acts import finish, rows, said, settle

TUTORIAL = Path(__file__).resolve().parents[2] / "Docs" / "tutorial.md"


def strike(panel: Any, name: str) -> None:
    """As Qt does when the keys are struck."""
    panel.shortcuts.shortcuts[name].activated.emit()


@pytest.fixture
def view(host: Any, case: Any) -> Any:
    from host.views import slice_view

    opened = slice_view(host.application_logic, host.scene, case.target, 0.0)
    yield opened.logic.GetSliceNode()
    opened.close()


def test_a_case_is_done_without_the_mouse(host: Any, chosen: Any, case: Any, copying: Path, view: Any) -> None:
    """Run, review, mark, propagate, accept: while the Segment Editor has the window, the panel need not be seen."""
    from RAUSlicerLib.slice_views import slice_in_view

    strike(chosen, "next")
    strike(chosen, "accept")
    assert "left the scene" in said(chosen) and not chosen.logic.busy(), "too early: told, nothing happens"
    strike(chosen, "run")
    finish(host, chosen)
    wanted = [int(row[1]) for row in rows(chosen.ui.reviewTree)]
    seen = []
    for _row in wanted:
        strike(chosen, "next")
        seen.append(slice_in_view(case.target, 0))
    assert seen == wanted
    strike(chosen, "next")
    assert slice_in_view(case.target, 0) == wanted[0], "and from the beginning"
    strike(chosen, "right")
    settle(host)
    assert chosen._parameterNode.rightSlices == [wanted[0]]
    strike(chosen, "propagate")
    finish(host, chosen)
    chosen.ui.bankFolderEdit.currentPath = str(copying / "bank")
    settle(host)
    strike(chosen, "accept")
    assert chosen.logic.busy()
    strike(chosen, "run")
    assert chosen.logic.busy(), "Run does not cancel"
    strike(chosen, "cancel")
    assert host.spin(lambda: not chosen.logic.busy(), 20)
    settle(host)
    assert "Cancelled" in said(chosen)


def test_tooltips_help_and_tutorial_name_the_keys(host: Any, chosen: Any) -> None:
    from RAUSlicerLib.shortcuts import KEYS

    ui = chosen.ui
    buttons = {"run": ui.segmentButton, "next": ui.nextButton, "right": ui.rightButton}
    buttons.update(propagate=ui.propagateButton, accept=ui.acceptButton)
    for name, button in buttons.items():
        assert button.toolTip.endswith(f"({KEYS[name]})"), name
    told = SimpleNamespace()
    lazy.module("RAUSlicer").RAUSlicer(told)
    tutorial = TUTORIAL.read_text(encoding="utf-8")
    for keys in KEYS.values():
        assert keys in told.helpText and keys in tutorial
    assert len(set(KEYS.values())) == len(KEYS)


def test_they_end_with_the_panel(host: Any, chosen: Any) -> None:
    made = list(chosen.shortcuts.shortcuts.values())
    assert all(one.isEnabled() for one in made)
    chosen.shortcuts.close()
    assert not any(one.isEnabled() for one in made) and not chosen.shortcuts.shortcuts
