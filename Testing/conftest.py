"""What all tests share: the labelled images, where they are; quiet threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread a test process: the figures do not depend on the machine, and small models are faster so.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from rau.evaluation.datasets import find_data

ABSENT = "the labelled images are not here: set RAU_DATA to their folder"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for the labelled images get the marker `shared_data`; without the images they are skipped."""
    data = find_data()
    for item in items:
        if "shared_data" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
        if data is None and item.get_closest_marker("shared_data"):
            item.add_marker(pytest.mark.skip(reason=ABSENT))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the labelled images; skips the test without them."""
    data = find_data()
    if data is None:
        pytest.skip(ABSENT)
    return data
