"""The expert: trained on one reference, looking at another picture."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from rau.adaptation.expert import Training, drawn, pixels, samples_of, train_expert  # noqa: E402
from rau.adaptation.guide import centres  # noqa: E402
from rau.adaptation.views import Sheets  # noqa: E402

SIDE = 64
QUICK = Training(views=4, samples=800, steps=80, batch=512)


def places(count: int = 1):
    """(count, S, S, 3): every pixel where it is."""
    return torch.cat([torch.zeros(SIDE, SIDE, 1), centres(SIDE)], 2).expand(count, -1, -1, -1)


def disc(row: float, column: float, radius: float = 9):
    """(S, S) booleans."""
    line = torch.arange(SIDE)
    return (line[:, None] - row) ** 2 + (line - column) ** 2 < radius**2


def picture(*discs, levels=(0.8, 0.55), seed: int = 0):
    """(1, 1, S, S): discs of these levels on a dark, noisy ground."""
    image = torch.full((SIDE, SIDE), 0.2)
    for one, level in zip(discs, levels):
        image[one] = level
    noise = torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 0.03
    return (image + noise).clamp(0, 1)[None, None]


def sheets(image, *masks) -> Sheets:
    labels = torch.zeros(1, SIDE, SIDE, dtype=torch.long)
    for k, mask in enumerate(masks):
        labels[0][mask] = k + 1
    return Sheets(image, labels, places())


def dice(found, truth) -> float:
    found, truth = np.asarray(found > 0.5), np.asarray(truth)
    return 2 * float((found & truth).sum()) / max(1.0, float(found.sum() + truth.sum()))


def state(expert) -> list:
    return [*expert.network.state_dict().values(), expert.mean, expert.deviation]


def test_the_same_seed_trains_the_same_expert_and_another_seed_another():
    one = sheets(picture(disc(30, 30)), disc(30, 30))
    first, second, other = (
        train_expert(one, 1, Training(views=4, samples=500, steps=20, batch=256, seed=s)) for s in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(state(first), state(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(state(first), state(other), strict=True))


def test_training_leaves_torchs_own_random_state_and_gradients_as_they_were():
    one = sheets(picture(disc(30, 30)), disc(30, 30))
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        expert = train_expert(one, 1, Training(views=2, samples=200, steps=5, batch=64))
        assert torch.is_inference_mode_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
    assert not expert.network.training and not any(p.requires_grad for p in expert.network.parameters())


@pytest.mark.parametrize("count", [1, 10])
def test_the_amount_of_work_is_fixed_however_many_slices_are_annotated(count, monkeypatch):
    one = sheets(picture(disc(30, 30)), disc(30, 30)).pick(torch.zeros(count, dtype=torch.long))
    how, steps = Training(views=8, samples=100, steps=7, batch=64), []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: steps.append(1) or step(*a, **k))
    train_expert(one, 1, how)
    drawn_from = samples_of(one, 1, how)
    parts = (drawn_from.features, drawn_from.labels, drawn_from.weights)
    assert len(steps) == how.steps
    assert {len(part) for part in parts} == {(how.views + min(count, 2)) * how.samples}


def test_a_bright_disc_is_found_in_a_shifted_picture():
    expert = train_expert(sheets(picture(disc(30, 30)), disc(30, 30)), 1, QUICK)
    moved = disc(38, 24)
    found = expert.predict(picture(moved, seed=1), places())
    assert found.shape == (1, 1, SIDE, SIDE) and 0 <= float(found.min()) <= float(found.max()) <= 1
    assert dice(found[0, 0], moved) > 0.85


def test_two_discs_that_look_the_same_are_told_apart_by_position():
    left, right = disc(32, 16), disc(32, 46)
    expert = train_expert(sheets(picture(left, right, levels=(0.8, 0.8)), left, right), 2, QUICK)
    here, there = disc(30, 19), disc(34, 44)
    found = expert.predict(picture(here, there, levels=(0.8, 0.8), seed=2), places())[0]
    assert dice(found[0], here) > 0.8 and dice(found[1], there) > 0.8


def test_structures_come_in_the_order_of_their_labels_and_exclude_each_other():
    one, other = disc(20, 20), disc(44, 42)
    for masks, levels in (((one, other), (0.8, 0.5)), ((other, one), (0.5, 0.8))):
        expert = train_expert(sheets(picture(*masks, levels=levels), *masks), 2, QUICK)
        found = expert.predict(picture(*masks, levels=levels, seed=5), places())[0]
        assert dice(found[0], masks[0]) > 0.8 and dice(found[1], masks[1]) > 0.8
        assert float(found.sum(0).max()) <= 1.0001


def test_colours_of_one_brightness_are_told_apart():
    red, green = disc(20, 20), disc(42, 42)
    image = torch.full((1, 3, SIDE, SIDE), 0.3)
    image[0, 0][red], image[0, 1][green] = 0.9, 0.9
    swapped = image.clone()
    swapped[0, :2] = image[0, [1, 0]]
    nowhere = torch.zeros_like(places())
    one = sheets(image, red, green)
    expert = train_expert(Sheets(one.images, one.labels, nowhere), 2, QUICK)
    found = expert.predict(swapped, nowhere)[0]
    assert dice(found[0], green) > 0.8 and dice(found[1], red) > 0.8, "the colour decides where places say nothing"


def test_a_structure_at_the_border_is_learnt():
    corner = disc(0, 60, 16)
    expert = train_expert(sheets(picture(corner), corner), 1, QUICK)
    moved = disc(2, 57, 16)
    assert dice(expert.predict(picture(moved, seed=1), places())[0, 0], moved) > 0.8


@pytest.mark.parametrize("masks", [(), (torch.ones(SIDE, SIDE, dtype=torch.bool),)])
def test_slices_of_one_label_alone_and_constant_pictures_are_survived(masks):
    image = torch.full((1, 1, SIDE, SIDE), 0.5)
    expert = train_expert(sheets(image, *masks), 2, Training(views=2, samples=300, steps=30, batch=128))
    found = expert.predict(image, places())[0]
    assert bool(torch.isfinite(found).all())
    assert float(found[1].mean()) < 0.3, "a structure that was never shown is not expected"


def test_slices_of_a_batch_do_not_depend_on_each_other():
    expert = train_expert(sheets(picture(disc(30, 30)), disc(30, 30)), 1, Training(2, 200, 10, 64))
    images = torch.cat([picture(disc(20, 20)), picture(disc(40, 40))])
    together = expert.predict(images, places(2))
    for k in range(2):
        assert torch.allclose(together[k], expert.predict(images[k : k + 1], places())[0], atol=1e-5)


def test_features_of_a_pixel_are_its_looks_and_its_place():
    x = pixels(picture(disc(30, 30)), places())
    assert x.shape == (1, SIDE * SIDE, 20 + 21)
    assert torch.equal(x[0, :, 20:23], places().reshape(-1, 3))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=400), st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_every_structure_is_drawn_however_small(labels, seed, balance):
    how = Training(balance=balance)
    maps = torch.tensor(labels)
    index, weight = drawn(maps, 400, 3, how, torch.Generator().manual_seed(seed))
    assert len(index) == len(weight) == 400 and 0 <= int(index.min()) <= int(index.max()) < len(labels)
    assert set(maps[index].tolist()) == set(labels)
    assert float(weight.mean()) == pytest.approx(1, abs=1e-4) and float(weight.min()) > 0


def test_weights_undo_the_choice_unless_structures_count_alike():
    maps = torch.zeros(10_000, dtype=torch.long)
    maps[:100] = 1
    for balance, share in ((0.0, 0.01), (1.0, 0.25)):
        index, weight = drawn(maps, 20_000, 1, Training(balance=balance), torch.Generator().manual_seed(0))
        assert float(weight[maps[index] == 1].sum() / weight.sum()) == pytest.approx(share, rel=0.1)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, SIDE * SIDE - 1), min_size=1, max_size=20))
def test_features_of_some_pixels_are_those_that_all_have_there(some):
    image, where, index = picture(disc(30, 30)), places(), torch.tensor(some)
    assert torch.equal(pixels(image, where, some=index), pixels(image, where)[:, index])
