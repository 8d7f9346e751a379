"""What a training run can be told: model size, start, sources, sizes, clock, patience, teacher."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from rau.errors import InputError  # noqa: E402
from rau.models.store import open_model  # noqa: E402
from rau.training import checkpoint, segmenter  # noqa: E402
from rau.training.data import Anatomies, Layout, Mixture, Patients, as_patient  # noqa: E402
from rau.training.pack import kept_of, pack  # noqa: E402
from rau.training.parts import filtered, parts_of  # noqa: E402
from rau.training.precision import bfloat16  # noqa: E402
from rau.training.schedule import Schedule  # noqa: E402
from rau.training.segmenter import Run, SegmenterTraining  # noqa: E402
from rau.training.sets import Mixtures  # noqa: E402

SMALL = {"image_size": 64, "width": 32, "embed_dim": 8, "stages": "1,1,3,1"}
FAST = {**SMALL, "steps": 3, "frames": 4, "structures": 2, "every": 1, "warmup": 1, "ramp": 2}


@pytest.fixture
def few(monkeypatch):
    """Three anatomies instead of the sets, and a validation that counts up: 0.1, 0.2, ..."""
    mixture, calls = Mixture((("anatomies", 1.0, Anatomies(0, 3)),)), []

    def validate(*_, **__):
        calls.append(1)
        return {"mean": 0.1 * len(calls)}

    monkeypatch.setattr(segmenter, "mixtures", lambda *_: Mixtures(mixture, mixture, mixture, mixture))
    monkeypatch.setattr(segmenter, "validate", validate)
    return calls


@pytest.fixture
def teacher(tmp_path):
    """A tiny DINOv2 with random weights."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "dino", safe_serialization=True)
    return tmp_path / "dino"


def source() -> Anatomies:
    return Anatomies(0, 3)


def test_another_model_size_is_trained_resumed_and_packed_as_it_is(tmp_path, few):
    settings = SegmenterTraining(str(tmp_path / "run"), **FAST)
    list(segmenter.train(settings))
    folder = pack(tmp_path / "run", None, tmp_path / "model", "1")
    part = folder.manifest.segmenter
    assert part.image_size == 64 and part.overrides["image_encoder.neck.d_model"] == 32
    assert part.overrides["image_encoder.trunk.stages"] == [1, 1, 3, 1]
    again = Run(SegmenterTraining(str(tmp_path / "run")))
    assert again.step == 3 and again.model.hidden_dim == 32 and again.size == 64
    with pytest.raises(InputError, match="another width"):
        Run(replace(settings, width=48))
    with pytest.raises(InputError, match="another image-size"):
        Run(replace(settings, image_size=128))


def test_runs_that_kept_no_model_are_packed_as_their_preset(tmp_path):
    run = Run(SegmenterTraining(str(tmp_path / "run")))
    checkpoint.save(run.state, run.model, run.optimiser, run.progress, {"preset": "rau-mini"})
    assert pack(tmp_path / "run", None, tmp_path / "model", "1").manifest.segmenter.image_size == 192


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 100},
        {"sizes": "192,x"},
        {"width": 20},
        {"stages": "1,2"},
        {"stages": "1,1,2,1"},
        {"sizes": "64", "width": 0},
    ],
)
def test_sizes_that_cannot_be_are_refused_before_anything_is_written(tmp_path, wrong):
    settings = {**SMALL, "image_size": 128, **wrong}
    with pytest.raises(InputError):
        Run(SegmenterTraining(str(tmp_path / "run"), **settings))
    assert not (tmp_path / "run").exists()


def test_no_path_goes_into_a_model_not_of_an_earlier_stage_either():
    before = {"folder": "/here/sft", "start": "/here/older", "cache": "/here/cache", "rate": 1e-3}
    assert kept_of({"data": "/here", "seed": 6, "before": before}) == {"seed": 6, "before": {"rate": 1e-3}}


def test_a_run_begins_from_a_model_and_remembers_which(tmp_path, few):
    list(segmenter.train(SegmenterTraining(str(tmp_path / "one"), **FAST)))
    folder = pack(tmp_path / "one", None, tmp_path / "model", "1.2")
    settings = SegmenterTraining(str(tmp_path / "two"), start=str(folder.path))
    run = Run(settings)
    want = folder.tensors("segmenter.safetensors")
    assert all(torch.equal(v, want[k]) for k, v in run.model.state_dict().items()) and run.size == 64
    run.save()
    found = checkpoint.settings_of(run.state)["started_from"]
    digest = folder.manifest.files["segmenter.safetensors"]
    assert found == {"name": "rau-mini", "version": "1.2", "sha256": digest}
    assert Run(replace(settings, start="")).started == found, "a run that goes on needs its start no more"
    packed = pack(tmp_path / "two", None, tmp_path / "next", "2")
    assert digest in packed.manifest.trained and str(tmp_path) not in (packed.path / "model.json").read_text()


def test_parts_of_the_mixture_keep_their_share_and_their_pictures():
    labels = np.zeros((12, 20, 20), np.uint8)
    labels[3:9, 5:15, 5:15] = 1
    image = (labels * 90 + np.random.default_rng(0).integers(0, 60, labels.shape)).astype(np.uint8)
    shown = Patients([as_patient(image, labels, (1, 1, 1))], real=0.6)
    maps = Patients([as_patient(None, labels, (1, 1, 1))], real=0.0)
    whole = Mixture((("anatomies", 0.5, source()), ("shown", 0.3, shown), ("maps", 0.2, maps)))

    def kept(text):
        return [(n, w, getattr(s, "real", None)) for n, w, s in filtered(whole, parts_of(text)).sources]

    assert kept("all") == [("anatomies", 0.5, None), ("shown", 0.3, 0.6), ("maps", 0.2, 0.0)]
    assert kept("anatomies") == [("anatomies", 0.5, None)]
    assert kept("anatomies, labelmaps")[1:] == [("shown", 0.3, 0.0), ("maps", 0.2, 0.0)]
    assert kept("real") == [("shown", 0.3, 1.0)] and shown.real == 0.6
    drawn = filtered(whole, parts_of("labelmaps")).draw(np.random.default_rng(0), Layout())
    assert drawn.images is None
    for wrong in ("", "anatomy", "all,real"):
        with pytest.raises(InputError):
            parts_of(wrong)
    with pytest.raises(InputError, match="Nothing is left"):
        filtered(Mixture((("maps", 1.0, maps),)), parts_of("real"))


def test_the_rate_falls_at_the_end_of_the_steps_or_of_the_time():
    steps = Schedule(1.0, 100, 10, 0.5)
    assert steps.at(0, 0) == 0.1 and steps.at(40, 1e9) == 1.0
    assert steps.at(75, 0) == pytest.approx(0.515) and steps.at(100, 0) == pytest.approx(0.03)
    clock = Schedule(1.0, 100, 10, 0.5, 60.0)
    assert clock.at(50, 10) == 1.0 and clock.at(50, 45) == pytest.approx(0.515)
    assert clock.over(20, 60) and clock.over(100, 1) and not clock.over(99, 59.9)


def test_a_run_by_the_clock_ends_when_its_time_in_all_is_spent(tmp_path, few):
    settings = SegmenterTraining(str(tmp_path / "run"), **{**FAST, "steps": 10**6}, minutes=0.005, by_clock=True)
    first = next(segmenter.train(settings))
    last = [row["step"] for row in segmenter.train(settings)]
    assert last == list(range(int(first["step"]) + 1, int(last[-1]) + 1)) if last else first["step"] >= 1
    run = Run(settings)
    assert run.over() and run.progress.seconds >= 0.3
    assert list(segmenter.train(settings)) == []
    with pytest.raises(InputError, match="--minutes"):
        Run(replace(settings, minutes=0.0))


def test_a_run_without_a_new_best_ends_and_its_best_weights_are_packed(tmp_path, few, monkeypatch):
    scores = iter([0.3, 0.5, 0.5, 0.4, 0.9])
    monkeypatch.setattr(segmenter, "validate", lambda *_, **__: {"mean": next(scores)})
    settings = SegmenterTraining(str(tmp_path / "run"), **{**FAST, "steps": 9}, patience=2)
    next(segmenter.train(settings))
    assert [row["mean"] for row in segmenter.train(settings)] == [0.5, 0.5, 0.4], "resuming keeps count"
    assert list(segmenter.train(settings)) == []
    best = checkpoint.averaged_weights(tmp_path / "run" / "best.safetensors")
    last = checkpoint.averaged_weights(tmp_path / "run" / "state.safetensors")
    folder = pack(tmp_path / "run", None, tmp_path / "model", "1")
    packed, key = folder.tensors("segmenter.safetensors"), "image_encoder.trunk.patch_embed.proj.weight"
    assert torch.equal(packed[key], best[key].half().float()) and not torch.equal(best[key], last[key])
    assert json.loads(folder.manifest.trained)["segmenter"]["steps_packed"] == 2
    (tmp_path / "run" / "best.safetensors").unlink()
    folder = pack(tmp_path / "run", None, tmp_path / "model", "1")
    assert torch.equal(folder.tensors("segmenter.safetensors")[key], last[key].half().float())


def test_steps_draw_from_the_sizes_and_validation_takes_the_first(tmp_path):
    settings = {**FAST, "image_size": 0, "sizes": "64,128"}
    run, seen = Run(SegmenterTraining(str(tmp_path), **settings)), set()
    for _ in range(8):
        assert torch.isfinite(run.train_step(run.batch(source(), run.step)))
        seen.add(run.segmenter.size)
    assert seen == {64, 128} and run.size == 64 and run.architecture.image_size == 64


def test_the_teacher_teaches_the_trunk_and_its_head_resumes_but_is_never_packed(tmp_path, teacher, few):
    settings = SegmenterTraining(str(tmp_path / "run"), **FAST, teacher=str(teacher), teacher_frames=2)
    run = Run(settings)
    batch = run.batch(source(), 0)
    run.segmenter.set_size(64)
    lesson = run.lesson(batch, segmenter.encode(run.segmenter, batch), np.random.default_rng(0))
    lesson.backward()
    assert run.model.image_encoder.trunk.patch_embed.proj.weight.grad.abs().sum() > 0
    list(segmenter.train(settings))
    head = Run(settings).head.state_dict()
    assert head["weight"].shape == (16, 32, 1, 1) and not torch.equal(head["weight"], run.head.state_dict()["weight"])
    folder = pack(tmp_path / "run", None, tmp_path / "model", "1")
    assert set(folder.tensors("segmenter.safetensors")) == set(run.model.state_dict())
    text = (open_model(folder.path).path / "model.json").read_text()
    assert run.teacher.digest in text and str(tmp_path) not in text
    assert Run(replace(settings, teacher="")).step == 3, "a run can go on without its teacher"


def test_a_teacher_learns_nothing_new_and_is_imitated_better_with_practice(tmp_path, teacher):
    settings = {**FAST, "steps": 100}
    run = Run(SegmenterTraining(str(tmp_path / "run"), **settings, teacher=str(teacher), teacher_weight=1.0))
    before = {k: v.clone() for k, v in run.teacher.model.state_dict().items()}
    batch = run.batch(source(), 0)
    run.segmenter.set_size(64)
    losses = []
    for _ in range(30):
        lesson = run.lesson(batch, segmenter.encode(run.segmenter, batch), np.random.default_rng(0))
        run.optimiser.zero_grad()
        lesson.backward()
        run.optimiser.step()
        losses.append(lesson.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in run.teacher.model.state_dict().items())


def test_a_folder_that_is_no_teacher_is_refused(tmp_path, teacher):
    (teacher / "model.safetensors").rename(teacher / "pytorch_model.bin")
    for folder in (tmp_path / "nowhere", teacher):
        with pytest.raises(InputError, match="no DINOv2"):
            Run(SegmenterTraining(str(tmp_path / "run"), **FAST, teacher=str(folder)))


def test_attention_stays_whole_in_bfloat16():
    q = torch.randn(1, 2, 5, 8)
    with bfloat16(True):
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).dtype == torch.float32
        assert (q @ q.mT).dtype == torch.bfloat16
    with bfloat16(False):
        assert (q @ q.mT).dtype == torch.float32


def test_bfloat16_steps_lose_about_the_same(tmp_path):
    runs = [Run(SegmenterTraining(str(tmp_path / str(b)), **FAST, bf16=b)) for b in (False, True)]
    losses = [float(run.train_step(run.batch(source(), 0))) for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
