"""What the benchmarks of walks, volumes and the loop count, on figures made here; and the walk beside SAM2's own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import loop  # noqa: E402
import throughput  # noqa: E402
import volumes  # noqa: E402
import walks  # noqa: E402

from rau.volume.volume import Geometry, LabelMap, Structure  # noqa: E402


def map_of(array: np.ndarray) -> LabelMap:
    grid = Geometry(array.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    return LabelMap(array.astype(np.uint16), grid, (Structure(1, "one"), Structure(2, "two")))


def test_the_leak_is_what_lies_beyond_the_true_slices_as_a_share_of_the_truth():
    truth, found = np.zeros((8, 4, 4)), np.zeros((8, 4, 4))
    truth[2:5] = 1
    found[1:7] = 1
    assert volumes.leak(map_of(truth), map_of(found), 0) == pytest.approx(3 / 3)
    assert volumes.leak(map_of(truth), map_of(truth), 0) == 0
    turned = np.moveaxis(found, 0, 2)
    assert volumes.leak(map_of(np.moveaxis(truth, 0, 2)), map_of(turned), 2) == pytest.approx(1.0)


def test_corrected_slices_lie_evenly_within_what_is_shown_and_do_not_count_themselves():
    truth = np.zeros((20, 3, 3))
    truth[5:15] = 1
    slices = loop.corrected_slices(map_of(truth), 0, 3)
    assert slices == (6, 10, 13) and loop.corrected_slices(map_of(truth), 0, 1) == (10,)
    left = loop.without(map_of(truth), 0, slices).array
    assert not left[list(slices)].any() and left.sum() == 7 * 9


def test_a_target_of_the_throughput_is_met_or_missed_by_the_ratio_of_the_times():
    times = {"predictor": 10.0, throughput.EXACT: 7.0, throughput.RECOMMENDED: 5.0}
    told = dict(throughput.targets({1: 1e-5, 5: 1e-2}, {16: times}))
    assert [met for text, met in told.items() if "mask logits" in text] == [True, False]
    assert [met for text, met in told.items() if "16 structures" in text] == [True, False]


@pytest.mark.slow
@pytest.mark.parametrize("structures", [1, 3])
def test_batched_with_a_ring_is_the_video_predictor_of_sam2_object_by_object_with_all_it_remembers(structures):
    """More slices than the ring holds: the predictor does not attend to what is further away either."""
    torch.set_num_threads(1)
    segmenter, predictor = walks.models(128)
    assert walks.difference(segmenter, predictor, walks.scene(20, 128, structures), 18) < 1e-3


def test_modes_walk_the_same_slices_and_exact_and_fast_differ(monkeypatch):
    segmenter, _ = walks.models(64)
    one = walks.scene(4, 64, 2)
    found = [
        list(walks.our_walk(segmenter, one, mode)) for mode in (throughput.modes(64)[0], throughput.modes(512)[-1])
    ]
    assert [slice_.index for slice_ in found[0]] == [slice_.index for slice_ in found[1]] == [0, 1, 2]
    assert not np.array_equal(found[0][2].probability, found[1][2].probability)


def test_the_fit_of_ends_finds_the_sign_that_tells_and_counts_groups_alike():
    from fit_ends import Row, accuracy, fitted, stacked

    rng = np.random.default_rng(0)
    rows = []
    for group, count in (("many", 40), ("few", 4)):
        for _ in range(count):
            away = rng.uniform(-0.5, 0.5, 30)
            noise = rng.normal(size=(30, 4))
            numbers = np.column_stack([np.ones(30), noise, away])
            rows.append(Row(group, 0, numbers, away < 0))
    coefficients = fitted(rows)
    assert coefficients[-1] < -1 and abs(coefficients[-1]) > 3 * np.abs(coefficients[1:-1]).max()
    assert accuracy(rows, coefficients) > 0.95 > 0.6 > accuracy(rows, np.array([0.0, 1, 0, 0, 0, 0]))
    _, truth, weights = stacked(rows)
    assert weights[:1200].sum() == pytest.approx(weights[1200:].sum())
    assert weights[truth].sum() == pytest.approx(weights[~truth].sum())


def test_settings_of_a_variant_are_read_and_unknown_ones_refused():
    from validation_volumes import settings_of

    from rau.settings import SegmentSettings

    found = settings_of("region=auto,neighbours=2", SegmentSettings(seed=3))
    assert (found.region, found.neighbours, found.seed, found.quality) == ("auto", 2, 3, "off")
    assert settings_of("", SegmentSettings()).neighbours == 0
    with pytest.raises(ValueError, match="nonsense"):
        settings_of("nonsense=1", SegmentSettings())


def test_a_moved_pair_keeps_the_structures_of_its_target():
    from validation_volumes import moved, patients

    (task,) = patients(1)
    away = moved(task)
    assert set(np.unique(away.truth.array)) <= set(np.unique(task.truth.array))
    assert away.target.array.shape == task.target.array.shape
    assert not np.array_equal(away.truth.array, task.truth.array)
    assert away.reference is task.reference


def test_the_benchmark_of_moved_volumes_sees_what_the_search_from_the_centre_loses():
    from moved_volumes import scores
    from validation_tasks import Task

    from rau.training.patient import patient_pair

    reference, (target, truth) = patient_pair(7, (20, 48, 48))
    task = Task("patient", reference, target, truth)
    plain, found = scores(task, 40.0, 0.1)
    in_place, same = scores(task, 0.0, 0.0)
    assert found > plain + 0.2 and same == pytest.approx(in_place, abs=0.02)


def test_the_benchmark_of_registration_tells_what_each_step_brings():
    import registration
    from validation_tasks import Task

    from rau.references import deformation
    from rau.training.patient import patient_pair

    reference, (target, truth) = patient_pair(7, (20, 48, 48))
    before = deformation.SEARCHED, deformation.LEVELS
    found = registration.laid(Task("patient", reference, target, truth))
    dice = {name: one for name, (one, _) in found.items()}
    assert dice["affine"] < dice["demons"] < dice["as it is"] + 0.02
    assert before == (deformation.SEARCHED, deformation.LEVELS)


def test_no_two_variants_share_a_name():
    names = [one.name for one in (*volumes.THIRD, *volumes.ECONOMIES)]
    assert len(set(names)) == len(names)
