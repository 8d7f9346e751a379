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
        ("closed input", "WorkerEnded", "ended unexpectedly"),
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


@pytest.mark.parametrize("fault", ["hang", "closed output"])
def test_worker_that_does_not_answer_is_killed_two_seconds_after_cancel(
    host: Any, chosen: Any, case: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before = snapshot(case.target)
    break_worker(monkeypatch, fault)
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


# -- the disk, really full, and the folder of temporary files
def test_a_disk_that_fills_up_is_told_and_with_room_the_next_run_works(
    host: Any, chosen: Any, case: Any, copying: Path, small_disk: Any
) -> None:
    """Once while the panel writes the images, once while the worker makes room for its result."""
    disk = small_disk("3m")
    chosen.logic.client.folder_base = str(disk)
    before = snapshot(case.target)
    for taken in (2 << 20, 1 << 20):
        (disk / "others").write_bytes(b"x" * taken)
        state = run(host, chosen)
        assert state.phase == "failed" and state.problem.kind == "DiskFull", state
        notice = chosen.message.notice
        assert notice.title == "The disk is full." and "Free some space" in notice.lines[0]
        assert not difference(before, snapshot(case.target))
        assert not list(disk.glob("rauslicer-*/*.npy")), "the failed run leaves no file behind"
    (disk / "others").unlink()
    assert run(host, chosen).phase == "done"
    assert not list(disk.glob("rauslicer-*/*.npy"))
    chosen.logic.close()
    assert list(disk.iterdir()) == []


def test_without_a_folder_for_temporary_files_it_says_so_and_one_that_was_swept_away_is_made_anew(
    host: Any, chosen: Any, case: Any, copying: Path, tmp_path: Path
) -> None:
    import shutil

    before = snapshot(case.target)
    chosen.logic.client.folder_base = str(tmp_path / "nowhere")
    state = run(host, chosen)
    assert state.phase == "failed" and state.problem.kind == "TemporaryFolder"
    assert "temporary files cannot be written" in chosen.message.notice.title and "TMPDIR" in state.problem.hint
    assert not difference(before, snapshot(case.target))
    chosen.logic.client.folder_base = ""
    assert run(host, chosen).phase == "done"
    shutil.rmtree(chosen.logic.client.folder)
    chosen.ui.outputSelector.setCurrentNode(None)
    assert run(host, chosen).phase == "done"
