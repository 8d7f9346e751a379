"""The batches of a run, step after step; made ahead by other processes where there are cores for them.

What a step is given depends on its number alone, so that any number of workers makes the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from rau.errors import InputError

Made = TypeVar("Made")
AHEAD = 3  # batches that each worker keeps ready
ENDLESS = 10**9


def checked(workers: int) -> int:
    """workers, where this system can have them. Raises InputError."""
    if workers < 0 or (workers and "fork" not in torch.multiprocessing.get_all_start_methods()):
        raise InputError(f"Here there cannot be {workers} workers", "Use --workers 0")
    return workers


class _Steps(Dataset, Generic[Made]):  # type: ignore[type-arg, misc, unused-ignore]
    """The batch of step `first + i`, as `make` draws it."""

    def __init__(self, make: Callable[[int], Made], first: int) -> None:
        self.make, self.first = make, first

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Made:
        return self.make(self.first + index)


class _InTurn(torch.utils.data.Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(ENDLESS))


def batches(make: Callable[[int], Made], first: int, workers: int = 0) -> Iterator[Made]:
    """make(first), make(first + 1), ... without end.

    workers: processes that make them ahead; 0: made here, when they are asked for. Workers are forked, so that they
    share what `make` draws from, and see it as it is now.
    """
    if not workers:
        step = first
        while True:
            yield make(step)
            step += 1
    torch.multiprocessing.set_sharing_strategy("file_system")  # a batch has many tensors: more than files may be open
    loader: DataLoader[Made] = DataLoader(
        _Steps(make, first),
        batch_size=None,
        sampler=_InTurn(),
        num_workers=workers,
        prefetch_factor=AHEAD,
        multiprocessing_context="fork",
    )
    yield from loader
