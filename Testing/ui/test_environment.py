"""Which Python runs the worker, with what environment, and that nothing of it is left behind. Needs no Slicer."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from RAUSlicerLib import environment, exchange, process_tree, protocol
from RAUSlicerLib.problems import Problem


def fake_python(folder: Path) -> Path:
    path = folder.joinpath(*environment.WITHIN)
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_setting_comes_first_then_the_variable_then_the_folder_beside(tmp_path: Path) -> None:
    logic = tmp_path / "extension" / "RAUSlicer" / "Logic"
    beside = fake_python(tmp_path / "extension" / ".venv")
    chosen, named = fake_python(tmp_path / "chosen"), fake_python(tmp_path / "named")
    variables = {"RAU_PYTHON": str(named)}
    assert environment.find_python(str(chosen), variables, logic) == str(chosen)
    assert environment.find_python(str(tmp_path / "chosen"), variables, logic) == str(chosen), "a folder will do"
    assert environment.find_python("", variables, logic) == str(named)
    assert environment.find_python(" ", {}, logic) == str(beside)


@pytest.mark.parametrize("chosen, variables", [("/nowhere/python", {}), ("", {"RAU_PYTHON": "/nowhere/python"})])
def test_a_python_that_is_not_there_is_told_with_a_hint(chosen: str, variables: dict[str, str]) -> None:
    with pytest.raises(Problem) as told:
        environment.find_python(chosen, variables)
    assert "is not there" in told.value.message and "Advanced" in told.value.hint


def test_nothing_points_the_worker_at_another_python() -> None:
    base = {"PYTHONHOME": "/slicer", "PYTHONPATH": "/slicer/lib", "ITK_AUTOLOAD_PATH": "/slicer", "PATH": "/bin"}
    clean = environment.worker_environment(base, Path("/extension/Logic"))
    assert clean["PATH"] == "/bin" and clean["PYTHONPATH"] == str(Path("/extension/Logic"))
    assert "PYTHONHOME" not in clean and "ITK_AUTOLOAD_PATH" not in clean
    assert (clean["PYTHONNOUSERSITE"], clean["PYTHONUNBUFFERED"], clean["PYTHONIOENCODING"]) == ("1", "1", "utf-8")


def test_a_whole_tree_of_processes_is_killed() -> None:
    code = "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
    code += "print(p.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert child in process_tree.children(parent.pid)
    process_tree.kill_tree(parent.pid)
    assert parent.wait(5) != 0
    end = time.monotonic() + 5
    while running(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not running(child)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_folders_of_crashed_sessions_go_others_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    abandoned = tmp_path / f"{exchange.PREFIX}{ended.pid}-x"
    other = tmp_path / f"{exchange.PREFIX}notes"
    foreign = tmp_path / f"{exchange.PREFIX}{os.getppid()}-y"
    for folder in (abandoned, other, foreign):
        folder.mkdir()
    mine = exchange.private_folder(str(tmp_path))
    assert not abandoned.exists() and other.exists() and foreign.exists()
    assert mine.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("dtype", ["int16", ">i2", "float32", "uint8"])
def test_arrays_are_written_in_steps_and_read_back(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(0).integers(0, 100, (40, 300, 401)).astype(dtype)[:, ::-1]
    steps = sum(1 for _ in exchange.write_array(tmp_path / "a.npy", array))
    read = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert np.array_equal(read, array) and read.dtype.isnative
    assert steps == -(-array.shape[0] // max(1, exchange.STEP // (300 * 401 * array.dtype.itemsize)))
    with pytest.raises(FileExistsError):
        next(exchange.write_array(tmp_path / "a.npy", array))
    assert (tmp_path / "a.npy").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are told the POSIX way")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(Problem, match="The disk is full"):
            list(exchange.write_array(tmp_path / "a.npy", np.zeros((64, 256, 256), np.int16)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_lines_come_in_any_pieces() -> None:
    messages = [{"event": "slice", "job": i, "text": "Ünïcode\u2028"} for i in range(5)]
    data = b"".join(protocol.encoded(one) for one in messages)
    for step in (1, 7, 1000):
        lines, found = protocol.Lines(), []
        for start in range(0, len(data), step):
            found += lines.feed(data[start : start + step])
        assert found == messages


@pytest.mark.parametrize("line", [b"Loading...\n", b"[1]\n", b'{"job": 1}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_lines_that_are_no_events_are_refused(line: bytes) -> None:
    with pytest.raises(protocol.BrokenProtocol):
        protocol.Lines().feed(line)


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LONGEST_LINE", 1000)
    with pytest.raises(protocol.BrokenProtocol):
        protocol.Lines().feed(b"x" * 1001)
