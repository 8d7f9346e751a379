"""Learnt features of a pixel: their shape, how the expert takes them, and how they are trained and packed."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from test_adaptation_expert import dice, disc, picture, sheets  # noqa: E402

from rau.adaptation.closed_form import ClosedForm, Seen, balanced  # noqa: E402
from rau.adaptation.pixel_encoder import FEATURES, PixelEncoder, taught  # noqa: E402
from rau.errors import InputError, ModelError  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.models.store import MANIFEST, find_model, open_model  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402
from rau.training import checkpoint, pixels  # noqa: E402
from rau.training.batch import Batch, make_batch  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.pack import VlmRuns, pack  # noqa: E402

SMALL = {"steps": 4, "tasks": 2, "structures": 2, "size": 64, "every": 2, "anatomies": 3, "warmup": 1}


@pytest.fixture(scope="module")
def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(widths=(8, 8, 8, 16, 16), size=64).eval().requires_grad_(False)


@pytest.mark.parametrize("side", [48, 64, 100])
def test_features_come_for_every_pixel_whatever_the_size(encoder, side):
    assert encoder.look(torch.rand(2, 3, side, side)).features.shape == (2, FEATURES, side, side)


def test_a_grey_picture_of_one_channel_is_one_of_three_equal_ones(encoder):
    grey = torch.rand(1, 1, 64, 64)
    assert torch.equal(encoder.look(grey).learnt, encoder.look(grey.expand(-1, 3, -1, -1)).learnt)


def test_the_closed_form_of_a_slice_finds_its_own_structures_again(encoder):
    left, right = disc(20, 16), disc(44, 48)
    one = sheets(picture(left, right), left, right)
    (taught_one,) = taught(encoder, one, 2, [0.1], 0)
    found = taught_one.predict(encoder.look(one.images), one.places)
    assert found.shape == (1, 2, 64, 64)
    assert dice(found[0, 0], left) > 0.8 and dice(found[0, 1], right) > 0.8


def task_of_two(seed: int = 0) -> Batch:
    return make_batch(Anatomies(seed, 2), (seed,), pixels.LAYOUT, 2, 3, 64)


def pixels_of(inside, seed: int) -> Seen:
    """400 pixels of which one feature of six tells the structure apart; they lie anywhere."""
    rng = torch.Generator().manual_seed(seed)
    telling = inside.float()[:, None] + 0.1 * torch.randn(400, 1, generator=rng)
    filters, places = torch.randn(400, 5, generator=rng), 2 * torch.rand(400, 2, generator=rng) - 1
    return Seen(telling, filters, places)


@pytest.mark.parametrize("number", range(3))
def test_the_closed_form_finds_in_the_target_what_the_reference_shows(number):
    torch.manual_seed(number)
    rng = torch.Generator().manual_seed(number)
    inside = torch.rand(2, 400, generator=rng) < 0.3
    form = ClosedForm(1, 5)
    with torch.no_grad():
        form.metric.weight[:, 1:] *= 0.1
    fit = form.fit(pixels_of(inside[0], number), inside[:1].float(), 0.15, rng)
    logits = form.logits(fit, pixels_of(inside[1], number + 10))
    assert ((logits[0] > 0) == inside[1]).float().mean() > 0.97


def test_every_structure_is_regressed_as_weighted_least_squares_would():
    """The grams are put together from those of each structure: equal to weighing every pixel."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=rng)
    labels = (torch.rand(3, 200, generator=rng) < torch.tensor([[0.1], [0.3], [0.02]])).float()
    found = ClosedForm._regressed(x, labels, torch.full((6,), 0.05))
    for one, weights in zip(labels, found, strict=True):
        share = one.mean()
        weight = (0.5 + 0.25 * torch.where(one > 0.5, 1 / share, 1 / (1 - share))) / 200
        gram = x.T @ (weight[:, None] * x) + 0.05 * torch.eye(6)
        expected = torch.linalg.solve(gram, x.T @ (weight * (2 * one - 1)))
        assert torch.allclose(weights, expected, atol=1e-4)


def test_half_of_the_keys_come_from_all_structures_alike():
    labels = torch.zeros(2, 10_000)
    labels[0, :20], labels[1, 100:3000] = 1, 1
    index, rare = balanced(labels, 3000, torch.Generator().manual_seed(0))
    small = index < 20
    assert 0.12 < small.float().mean() < 0.22 and rare[small].mean() < rare[~small].mean()


def test_gradients_of_the_targets_loss_reach_the_encoder_through_the_learner():
    lesson, batch = pixels.Lesson(PixelEncoder(widths=(8, 8, 8, 16, 16))), task_of_two()
    loss = pixels.loss_of(*lesson(batch, 0), batch.present)
    loss.backward()
    first = lesson.encoder.down[0].first.weight.grad
    assert torch.isfinite(loss) and first is not None and first.abs().sum() > 0
    assert all(one.grad is not None for one in lesson.encoder.closed_form.parameters())


def test_absent_structures_count_for_the_cross_entropy_alone():
    logits, truth = torch.full((1, 8, 8), -9.0), torch.zeros(1, 8, 8)
    assert pixels.loss_of(logits, truth, torch.tensor([False])) < 0.01


def test_a_resumed_run_ends_where_a_straight_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "validate", lambda *a, **k: {"mean": 0.0})
    straight = pixels.PixelTraining(str(tmp_path / "straight"), **SMALL)
    list(pixels.train(straight))
    broken = replace(straight, folder=str(tmp_path / "broken"))
    assert next(pixels.train(broken))["step"] == 2
    assert [row["step"] for row in pixels.train(broken)] == [4]
    one, other = (checkpoint.averaged_weights(tmp_path / name / "state.safetensors") for name in ("straight", "broken"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_validation_says_what_the_features_add_for_each_source():
    scores = pixels.validate(pixels.Lesson(), Mixture((("anatomies", 1.0, Anatomies(5, 2)),)), 64, 1)
    assert 0 <= scores["mean"] <= 1 and 0 <= scores["plain"] <= 1
    assert scores["mean"] != scores["plain"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The bundled segmenter and encoder with a pixel encoder of two steps."""
    base = tmp_path_factory.mktemp("packed")
    run = pixels.PixelTraining(str(base / "run"), **{**SMALL, "steps": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "validate", lambda *a, **k: {"mean": 0.0})
        list(pixels.train(run))
    bundled = find_model("rau-mini")
    return pack(bundled, bundled, base / "model", "9.9", pixels=base / "run"), base


def test_a_model_with_a_pixel_encoder_is_packed_loaded_and_packed_again(packed):
    folder, base = packed
    assert str(base) not in (folder.path / MANIFEST).read_text(), "no path of this machine in a model"
    engine = load_engine(SegmentSettings(model=str(folder.path)))
    assert engine.pixels is not None and not any(p.requires_grad for p in engine.pixels.parameters())
    again = pack(folder.path, folder.path, base / "again", "9.9", pixels=folder.path)
    assert again.manifest.files["pixels.safetensors"] == folder.manifest.files["pixels.safetensors"]
    without = pack(folder.path, folder.path, base / "without", "9.9")
    assert load_engine(SegmentSettings(model=str(without.path))).pixels is None
    with pytest.raises(InputError, match="no pixel encoder"):
        pack(folder.path, folder.path, base / "other", "9.9", pixels=without.path)


def test_what_is_taken_over_from_a_model_is_the_same_file(packed, tmp_path):
    folder, base = packed
    bundled = open_model(find_model("rau-mini"))
    made = pack(bundled.path, bundled.path, tmp_path / "m", "9.9", vlm=VlmRuns(bundled.path), pixels=folder.path)
    same = {name for name, digest in bundled.manifest.files.items() if made.manifest.files.get(name) == digest}
    weights = {name for name in bundled.manifest.files if name.endswith(".safetensors")} - {"pixels.safetensors"}
    assert weights <= same and len(weights) == 4


def test_a_pixel_encoder_that_does_not_fit_its_manifest_is_refused(packed):
    folder, base = packed
    text = (folder.path / MANIFEST).read_text().replace('"features": 24', '"features": 16')
    (folder.path / MANIFEST).write_text(text)
    assert open_model(folder.path).manifest.pixels.config["features"] == 16
    with pytest.raises(ModelError, match="do not fit"):
        load_engine(SegmentSettings(model=str(folder.path)))


def test_a_step_asks_for_some_pixels_of_the_target_the_same_for_the_same_seed():
    lesson, batch = pixels.Lesson(), task_of_two()
    with torch.no_grad():
        (one, truth), (again, same), (other, _) = (lesson(batch, seed, some=100) for seed in (3, 3, 4))
    assert one.shape == truth.shape == (len(batch.of), 100)
    assert torch.equal(one, again) and torch.equal(truth, same) and not torch.equal(one, other)
