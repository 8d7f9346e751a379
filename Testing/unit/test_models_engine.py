"""The engine takes the threads that it is told, or that pay."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.models.engine import load_engine, threads_of  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402


def test_of_two_processors_one_works_and_of_more_as_many_as_torch_takes():
    assert threads_of(0, 1) == threads_of(0, 2) == 1
    assert threads_of(0, 8) == 0
    assert threads_of(3, 2) == threads_of(3, 8) == 3


@pytest.mark.parametrize(("wanted", "processors", "taken"), [(0, 2, 1), (2, 2, 2), (0, 8, 3)])
def test_an_engine_sets_the_threads_of_its_process(wanted, processors, taken, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    try:
        torch.set_num_threads(3)
        load_engine(SegmentSettings(threads=wanted))
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)
