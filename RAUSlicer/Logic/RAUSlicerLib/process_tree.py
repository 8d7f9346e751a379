"""Ending a process with all its children: a launcher that is killed alone leaves its child behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys


def children(pid: int) -> list[int]:
    """All descendants of a process, nearest first. Empty where `ps` is missing."""
    try:
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, timeout=2).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    below: dict[int, list[int]] = {}
    for line in table.splitlines():
        one, parent = (int(word) for word in line.split()[:2])
        below.setdefault(parent, []).append(one)
    found, queue = [], [pid]
    while queue:
        next_ones = below.get(queue.pop(0), [])
        found += next_ones
        queue += next_ones
    return found


def kill_tree(pid: int) -> None:
    """Kill a process and its descendants at once."""
    if pid <= 0:
        return
    if sys.platform == "win32":
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True, timeout=5)
        return
    for one in [*children(pid)[::-1], pid]:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(one, signal.SIGKILL)
