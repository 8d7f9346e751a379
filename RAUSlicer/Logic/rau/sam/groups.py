"""Rows in groups that fit into memory, and smaller ones where they did not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rau.errors import out_of_memory

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

SHARE = 0.25  # of the free memory that a group may take
LARGE = 50_000_000  # bytes a row
ON_CPU = 4  # rows that a CPU does best at once: more leave its cache


def in_groups(count: int, most: int, run: Callable[[int, int], Result]) -> tuple[list[tuple[range, Result]], int]:
    """run(start, stop) over `count` rows, at most `most` at a time; where memory runs out, half as many.

    Returns the results with their rows, and how many rows at a time went well. One row that does not fit raises.
    """
    done: list[tuple[range, Result]] = []
    start = 0
    while start < count:
        stop = min(count, start + most)
        try:
            done.append((range(start, stop), run(start, stop)))
        except (RuntimeError, MemoryError) as problem:
            if stop - start == 1 or not out_of_memory(problem):
                raise
            most = (stop - start) // 2
        else:
            start = stop
    return done, most


def bytes_of_row(size: int, channels: int, memory_channels: int, slots: int, remember: bool) -> int:
    """About what one row takes while it is decoded. size: pixels a side; slots: slices in memory.

    Twice what the tensors of the decoder's last steps, of the memory and its keys add up to in float32.
    """
    positions = (size // 16) ** 2
    decoded = 12 * channels * positions + 5 * channels // 8 * (size // 4) ** 2
    memory = slots * positions * (3 * memory_channels + 2 * channels)
    kept = 4 * size**2 + 10 * channels * positions if remember else 0
    return 2 * 4 * (decoded + memory + kept)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device; where the system does not say, 4 GB."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 4_000_000_000


def rows_that_fit(device: torch.device, bytes_a_row: int) -> int:
    """At least one row; on a CPU at most ON_CPU of large slices."""
    fit = max(1, int(SHARE * free_bytes(device)) // bytes_a_row)
    return min(fit, ON_CPU) if device.type == "cpu" and bytes_a_row > LARGE else fit


def give_back() -> None:
    """Hand freed memory back to the system, where the C library keeps it (glibc): else a long walk seems to grow."""
    import ctypes
    import sys

    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
