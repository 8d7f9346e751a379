"""Reverse classification: a good result finds the reference back, a bad one does not."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.adaptation.views import Sheets  # noqa: E402
from rau.errors import Cancelled  # noqa: E402
from rau.preparation import Case, CasePlane, Ready  # noqa: E402
from rau.quality.reverse import reverse_dice, spread  # noqa: E402
from rau.references.encoded import EncodedReference  # noqa: E402
from rau.sam.propagation import Match  # noqa: E402
from rau.volume.orientation import orientation_of  # noqa: E402
from rau.volume.planes import Planes  # noqa: E402
from rau.volume.volume import Geometry, Structure  # noqa: E402

SPACING = (2.0, 1.0, 1.0)


def go_on() -> None:
    """Nobody cancels."""


def subject(shape: tuple[int, int, int], seed: int, colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels: a bright ball (2) and a dark one (6) that lie a little elsewhere in every subject."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).astype(float)
    labels = np.zeros(shape, np.uint16)
    for value, place in ((2, (0.5, 0.35, 0.35)), (6, (0.5, 0.65, 0.62))):
        centre = np.array(shape) * place + rng.uniform(-2, 2, 3) * (shape[0] > 1, 1, 1)
        centre[0] = centre[0] if shape[0] > 1 else 0
        labels[(((index - centre) * SPACING) ** 2).sum(-1) < (0.16 * shape[1]) ** 2] = value
    image = 100.0 + 60 * (labels == 2) - 60 * (labels == 6) + rng.normal(0, 6, shape)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return (np.stack([image, image // 2, image], -1) if colour else image), labels


def case_of(shape: tuple[int, int, int], axis: int = 0, colour: bool = False, seeds=(1,)) -> tuple[Case, np.ndarray]:
    """A case without registration, and the target's truth."""
    image, truth = subject(shape, 0, colour)
    planes, matches, made = Planes(image, axis, SPACING), [], []
    for number, seed in enumerate(seeds):
        theirs, labels = subject(shape, seed, colour)
        pair = Planes(theirs, axis, SPACING), Planes(labels, axis, SPACING)
        encoded = EncodedReference(*pair, (2, 6), np.zeros((len(planes), 1), np.float32))
        likeness = np.full(len(planes), 1.0 - 0.1 * number)
        matches.append(Match(encoded, number, np.arange(len(planes)), likeness))
        grid = Geometry(shape, SPACING)
        made.append(Ready(theirs, labels, grid, orientation_of(grid)))
    plane = CasePlane(planes, tuple(matches), tuple(matches))
    structures = (Structure(2, "bright"), Structure(6, "dark"))
    return Case(structures, image, orientation_of(Geometry(shape, SPACING)), (plane,), (), tuple(made), False), truth


@pytest.mark.parametrize(
    "shape, axis, colour",
    [((1, 64, 56), 0, False), ((1, 64, 56), 0, True), ((9, 48, 40), 0, False), ((40, 48, 20), 1, False)],
)
def test_a_good_result_finds_the_reference_and_an_exchanged_one_does_not(shape, axis, colour):
    case, truth = case_of(shape, axis, colour)
    good = reverse_dice(case, truth, 0, go_on)
    exchanged = np.select([truth == 2, truth == 6], [6, 2]).astype(np.uint16)
    bad = reverse_dice(case, exchanged, 0, go_on)
    assert set(good) == set(bad) == {2, 6}
    assert min(good.values()) > 0.45 and max(good.values()) > 0.8
    assert max(bad.values()) < 0.3


def test_a_shifted_result_is_worse_and_the_same_seed_gives_the_same():
    case, truth = case_of((1, 64, 56))
    good = reverse_dice(case, truth, 3, go_on)
    assert reverse_dice(case, truth, 3, go_on) == good
    shifted = reverse_dice(case, np.roll(truth, 9, 2), 3, go_on)
    assert all(shifted[value] < good[value] - 0.1 for value in (2, 6))


def test_what_result_or_reference_lack_has_no_entry():
    case, truth = case_of((1, 64, 56), seeds=(1, 2))
    assert reverse_dice(case, np.zeros_like(truth), 0, go_on) == {}
    assert set(reverse_dice(case, np.where(truth == 6, 0, truth), 0, go_on)) == {2}


def test_it_can_be_cancelled():
    case, truth = case_of((1, 64, 56))

    def stop() -> None:
        raise Cancelled()

    with pytest.raises(Cancelled):
        reverse_dice(case, truth, 0, stop)


def test_every_structure_is_among_the_slices_looked_at():
    labels = torch.zeros(10, 8, 8, dtype=torch.long)
    labels[2:9, :4] = 1
    labels[3, 6:] = 2
    sheets = Sheets(torch.zeros(10, 1, 8, 8), labels, torch.zeros(10, 8, 8, 3))
    chosen = spread(sheets, 2, 3)
    assert 3 <= len(chosen) <= 4 and set(chosen.labels.unique().tolist()) == {0, 1, 2}
    assert chosen.labels.flatten(1).any(1).all()
