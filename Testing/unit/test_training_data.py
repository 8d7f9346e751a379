"""Training data: what is drawn, and that the same seed draws the same."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.errors import InputError  # noqa: E402
from rau.training import anatomy, appearance, synthetic  # noqa: E402
from rau.training.batch import MIN_PIXELS, make_batch, pick  # noqa: E402
from rau.training.data import RAW, TISSUE, Anatomies, Layout, Mixture, Patients, as_patient, remove_one  # noqa: E402
from rau.training.sets import cases_of  # noqa: E402
from rau.training.synthetic import sample_labels  # noqa: E402
from rau.training.windows import looked_at, windows_of  # noqa: E402


@pytest.fixture(scope="module")
def anatomies() -> Anatomies:
    return Anatomies(0, 8)


@pytest.fixture(scope="module")
def patients() -> Patients:
    rng = np.random.default_rng(0)
    people = []
    for k in range(3):
        labels = np.zeros((20, 30, 40), np.uint16)
        labels[4:15, 8 + k : 20, 10:25] = 300
        labels[6:10, 20:28, 25:35] = 7
        people.append(
            as_patient((rng.random(labels.shape) * 80 + labels / 3).astype(np.uint8), labels, (2.0, 1.0, 1.0))
        )
    return Patients(people, real=1.0, same=0.0)


@pytest.mark.parametrize("family", [f for _, f in anatomy.FAMILIES])
def test_each_family_draws_several_structures(family):
    pairs = [anatomy.random_pair(np.random.default_rng(seed), 96, family) for seed in range(6)]
    counts = [len(np.unique(one.labels)) for one, _ in pairs]
    assert min(counts) >= 2 and max(counts) >= 3
    for one, other in pairs:
        assert one.labels.shape == one.relief.shape == (96, 96) and one.labels.dtype == np.uint8
        assert one.style == other.style and np.array_equal(one.materials, other.materials)
        assert not np.array_equal(one.labels, other.labels), "two instances are two subjects"


@pytest.mark.parametrize("layout", [Layout(1, 0), Layout(3, 1), Layout(2, 2)])
def test_batches_have_the_documented_shapes_and_repeat_with_their_seed(anatomies, layout):
    one, two = (make_batch(anatomies, (5, 1), layout, 3, 4, 64) for _ in range(2))
    other = make_batch(anatomies, (5, 2), layout, 3, 4, 64)
    k = len(one.of)
    assert one.images.shape == (3, layout.frames, 3, 64, 64) and one.masks.shape == (k, layout.frames, 1, 64, 64)
    assert one.images.min() >= 0 and one.images.max() <= 1 and set(one.masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(one.images, two.images) and torch.equal(one.masks, two.masks)
    assert not torch.equal(one.images, other.images)


def test_every_structure_is_shown_by_a_reference_and_present_says_the_truth(anatomies):
    layout, absent = Layout(2, 1), 0
    for seed in range(12):
        batch = make_batch(anatomies, (7, seed), layout, 4, 4, 96)
        assert (batch.masks[:, :2].flatten(2).sum(2).max(1).values >= MIN_PIXELS).all()
        area = batch.masks[:, layout.target].flatten(1).sum(1)
        assert torch.equal(batch.present, area > 0) and not ((area > 0) & (area < MIN_PIXELS)).any()
        absent += int((~batch.present).sum())
    assert absent > 0, "absent structures must be taught too"


def test_real_slices_come_from_different_patients_and_keep_their_brightness(patients):
    task = patients.draw(np.random.default_rng(0), Layout(1, 0))
    assert (
        task.images is not None
        and task.images.shape == (2, RAW, RAW)
        and 0 <= task.images.min() <= task.images.max() <= 1
    )
    assert task.subjects == (0, 1)
    assert task.labels[task.labels < TISSUE].max() <= 2, "label values are renumbered"


def test_unlabelled_tissue_is_never_asked_for():
    counts = np.zeros((2, 256), int)
    counts[:, [0, 3, TISSUE, 255]] = 500
    for seed in range(20):
        assert pick(np.random.default_rng(seed), counts, Layout(1, 0), 4) == [[3]]


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_a_removed_structure_is_gone_from_the_target_and_stays_in_the_reference(seed):
    rng = np.random.default_rng(seed)
    labels = np.ones((3, 40, 40), np.uint8)
    for value in range(2, 6):
        r, c = rng.integers(2, 28, 2)
        labels[:, r : r + 9, c : c + 9] = value
    before = labels.copy()
    remove_one(rng, labels, Layout(1, 1))
    gone = set(np.unique(before[1])) - set(np.unique(labels[1]))
    assert len(gone) <= 1 and np.array_equal(labels[0], before[0]) and np.array_equal(labels[1], labels[2])


def test_rendered_structures_differ_in_brightness_and_stay_in_place():
    dice = synthetic.Dice(0)
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 20:40, 20:40] = 1
    means = torch.zeros(1, appearance.TABLE)
    means[:, 1] = 1.0
    image = appearance.degrade(
        dice, appearance.render(dice, labels, means, torch.zeros(1, appearance.TABLE)), torch.zeros(1)
    )
    assert image[0, 30, 30] > 0.9 and image[0, 5, 5] < 0.1


def test_no_deformation_leaves_labels_where_they_are():
    dice = synthetic.Dice(1)
    labels = torch.arange(64 * 64, dtype=torch.uint8).view(1, 64, 64)
    grid = synthetic.refined(synthetic.affine_grid(dice, 1, 64, synthetic.Spread(), torch.zeros(1)), 64)
    assert torch.equal(synthetic.sample_labels(labels, grid), labels.long())


def a_set(base, name: str, count: int, trainable: bool):
    """A folder of empty cases as the labelled sets are laid out."""
    import json

    cases = {f"case_{k:03d}": {} for k in range(1, count + 1)}
    for case in cases:
        (base / name / case).mkdir(parents=True)
    told = {"name": name, "modality": "MR", "dims": 3, "structures": {"1": "one"}, "cases": cases}
    (base / name / "set.json").write_text(json.dumps({**told, "licence_allows_training": trainable}))


def test_evaluation_sets_are_refused_for_training(tmp_path):
    a_set(tmp_path, "acdc_cine_mr", 3, False)
    with pytest.raises(InputError, match="may not be used for training"):
        cases_of(tmp_path, "acdc_cine_mr")


def test_held_out_and_validation_cases_are_never_trained_on(tmp_path):
    a_set(tmp_path, "msd_hippocampus", 130, True)
    train, validation = cases_of(tmp_path, "msd_hippocampus")
    names = [c.name for c in [*train, *validation]]
    assert len(train) == 94 and len(validation) == 6 and max(names) == "case_100"
    assert not {c.name for c in train} & {c.name for c in validation}


def test_a_mixture_draws_from_all_its_sources(anatomies, patients):
    mixture = Mixture((("a", 0.5, anatomies), ("b", 0.5, patients)))
    rng = np.random.default_rng(0)
    real = [mixture.draw(rng, Layout(1, 0)).images is not None for _ in range(40)]
    assert 5 < sum(real) < 35


def test_a_closer_look_shows_the_same_structure_larger_in_every_frame():
    labels = np.zeros((3, 64, 64), np.uint8)
    for frame, (row, column) in zip(labels, ((10, 12), (30, 40), (31, 41)), strict=True):
        frame[row : row + 8, column : column + 6] = 1
    layout = Layout(1, 1)
    axis = (torch.arange(64) + 0.5) / 32 - 1
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).expand(3, -1, -1, -1)
    maps = torch.from_numpy(labels)
    seen = sample_labels(maps, looked_at(maps, grid, layout, np.random.default_rng(0), 1.0))
    shown = (seen == 1).flatten(1).sum(1)
    assert (shown > 2 * 48).all() and (seen == 1).any(2).sum(1).min() > 12
    assert torch.equal(looked_at(maps, grid, layout, np.random.default_rng(0), 0.0), grid)


def test_a_structure_that_fills_the_frame_is_not_looked_at_closer():
    labels = np.ones((2, 64, 64), np.uint8)
    assert windows_of(labels, Layout(1, 0), np.random.default_rng(0)) is None


@given(st.integers(0, 2**32 - 1))
def test_windows_of_closer_looks_lie_within_the_frame(seed):
    rng = np.random.default_rng(seed)
    labels = np.zeros((3, 48, 48), np.uint8)
    for frame in labels[: int(rng.integers(1, 4))]:
        row, column = rng.integers(0, 40, 2)
        frame[row : row + 7, column : column + 7] = 1
    windows = windows_of(labels, Layout(1, 1), rng)
    assert windows is not None
    for row, column, side in windows:
        assert 0 < side <= 1
        assert min(row, column) >= side / 2 - 1e-9 and max(row, column) <= 1 - side / 2 + 1e-9
