"""Mask prompts of a slice, from volumes of what is expected."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.sam.propagation import prompts_of  # noqa: E402
from rau.volume.planes import Planes  # noqa: E402

NETWORK = SimpleNamespace(size=64, device=torch.device("cpu"))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_prompts_are_the_slice_on_the_networks_square(axis):
    rng = np.random.default_rng(axis)
    volumes = {v: rng.integers(0, 256, (9, 12, 10), dtype=np.uint8) for v in (4, 7)}
    planes = Planes(volumes[4], axis, (2.0, 1.0, 1.5))
    found = prompts_of(volumes.get, (7, 4), 3, planes, NETWORK)
    assert found.shape == (2, 1, 64, 64) and 0 <= float(found.min()) <= float(found.max()) <= 1
    top, left, height, width = planes.frame.pixels(64)
    for k, value in enumerate((7, 4)):
        inside = found[k, 0, top : top + height, left : left + width]
        assert float(inside.mean()) == pytest.approx(np.take(volumes[value], 3, axis).mean() / 255, abs=0.03)
        assert float(found[k].sum()) == pytest.approx(float(inside.sum()), rel=1e-5), "nothing outside the slice"


def test_a_slice_is_prompted_only_if_all_its_structures_are_expected_somewhere():
    volume = np.zeros((3, 8, 8), np.uint8)
    planes = Planes(volume, 0, (1.0, 1.0, 1.0))
    assert prompts_of(None, (1,), 0, planes, NETWORK) is None
    assert prompts_of({1: volume}.get, (1, 2), 0, planes, NETWORK) is None
    assert prompts_of({1: volume, 2: volume}.get, (1, 2), 0, planes, NETWORK) is not None
