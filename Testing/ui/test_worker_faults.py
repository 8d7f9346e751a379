"""A worker that breaks the protocol, hangs or does not start: one message in the panel, the scene as it was."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from scene import difference, snapshot

FAULTS = Path(__file__).with_name("fault_worker.py")


def break_worker(monkeypatch: pytest.MonkeyPatch, fault: str, program: str = sys.executable) -> None:
    from RAUSlicerLib import environment

    def launch(python: str, base: Any, logic: Any = None) -> Any:
        return environment.Launch(program, (str(FAULTS), fault), tuple(sorted(os.environ.items())))

    monkeypatch.setattr(environment, "launch", launch)


def run(host: Any, panel: Any) -> Any:
    panel.ui.segmentButton.click()
    assert host.spin(lambda: panel.logic.run.state.over, 20), panel.logic.run.state
    host.spin(lambda: False, 0.05)
    return panel.logic.run.state


@pytest.mark.parametrize(
    "fault, kind, words",
    [
        ("garbage", "BrokenProtocol", "not understood"),
        ("other version", "BrokenProtocol", "another version"),
        ("crash at start", "WorkerEnded", "No module named 'torch'"),
        ("slice beyond", "InternalError", "unexpected"),
        ("old words", "InputError", "A reason"),
    ],
)
def test_fault_is_told_once_and_the_scene_stays(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch, fault: str, kind: str, words: str
) -> None:
    before = snapshot(case.target)
    break_worker(monkeypatch, fault)
    state = run(host, chosen)
    assert state.phase == "failed" and state.problem.kind == kind
    notice = chosen.message.notice
    assert notice.kind == "error" and words in " ".join((notice.title, *notice.lines))
    assert not difference(before, snapshot(case.target))
    assert chosen.ui.segmentButton.enabled and chosen.ui.segmentButton.text == "Segment from reference"


def test_program_that_cannot_start(host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(case.target)
    break_worker(monkeypatch, "", program="/nowhere/python")
    state = run(host, chosen)
    assert state.phase == "failed" and "could not be started" in state.problem.message
    assert not difference(before, snapshot(case.target))


def test_deaf_worker_is_killed_after_two_seconds(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(case.target)
    break_worker(monkeypatch, "hang")
    chosen.ui.segmentButton.click()
    assert host.spin(lambda: chosen.logic.run.state.phase == "running", 20)
    pid, asked = chosen.logic.client._process.pid(), time.monotonic()
    folder = chosen.logic.client.folder
    chosen.ui.segmentButton.click()
    assert not chosen.ui.segmentButton.enabled
    assert host.spin(lambda: chosen.logic.run.state.over, 10)
    assert chosen.logic.run.state.phase == "cancelled" and 1.5 < time.monotonic() - asked < 6
    assert host.spin(lambda: not os.path.exists(f"/proc/{pid}"), 5)
    assert not folder.exists()
    assert not difference(before, snapshot(case.target))


def test_worker_that_is_never_ready_can_be_cancelled_and_times_out(
    host: Any, chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from RAUSlicerLib import worker_client

    break_worker(monkeypatch, "never ready")
    chosen.ui.segmentButton.click()
    host.spin(lambda: False, 0.3)
    chosen.ui.segmentButton.click()
    assert chosen.logic.run.state.phase == "cancelled"
    chosen.logic.client.stop()
    monkeypatch.setattr(worker_client, "START_SECONDS", 0.5)
    state = run(host, chosen)
    assert state.phase == "failed" and "did not answer" in state.problem.message


def test_private_folder_is_private_and_goes_with_the_worker(
    host: Any, chosen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_worker(monkeypatch, "hang")
    chosen.ui.segmentButton.click()
    assert host.spin(lambda: chosen.logic.run.state.phase == "running", 20)
    folder = chosen.logic.client.folder
    assert folder.stat().st_mode & 0o077 == 0
    files = list(folder.glob("*.npy"))
    assert len(files) == 3 and all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert not any("CT" in path.name for path in files), "names of nodes are not in names of files"
    chosen.logic.close()
    assert not folder.exists()


def test_closing_the_scene_mid_run_ends_the_run(host: Any, chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    break_worker(monkeypatch, "hang")
    chosen.ui.segmentButton.click()
    assert host.spin(lambda: chosen.logic.run.state.phase == "running", 20)
    host.clear()
    assert chosen.logic.run.state.phase == "cancelled"
    assert chosen.ui.segmentButton.text == "Segment from reference" and not chosen.ui.segmentButton.enabled
