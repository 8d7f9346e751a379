"""Lessons in reading: what is asked is answered, what is learnt can be known, the vision tower is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from vlm_side import TINY  # noqa: E402

from rau.training.lessons import (  # noqa: E402
    IGNORED,
    LONGEST,
    copied,
    looked_up,
    read_batch,
    repeated,
    thought_of,
    tokens_of,
)
from rau.training.sft import Run, SftTraining, train  # noqa: E402
from rau.training.vlm_objective import SftModel  # noqa: E402
from rau.vlm.answers import answer_of, parse_boxes, parse_label  # noqa: E402
from rau.vlm.prompts import GRID  # noqa: E402
from rau.vlm.reader import is_reader  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner  # noqa: E402
from rau.vlm.vocabulary import COLOURS, END  # noqa: E402


@pytest.fixture(scope="module")
def loaded():
    return new_reasoner(0, TINY)


def legend_of(told: str) -> dict[str, str]:
    """Colour to name, read from the words of the dialogue."""
    lines = told.partition("structures: ")[2].partition(". Image 3")[0].split("; ")
    return dict(line.split(" = ") for line in lines)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_every_colour_of_the_legend_is_looked_up_once_and_the_thought_says_its_line(seed):
    told, _, pieces = looked_up(np.random.default_rng(seed))
    names = legend_of(told)
    answers = "".join(text for text, _ in pieces).split(END)[:-1]
    found = {}
    for answer in answers:
        name = parse_label(answer, list(names.values()))
        colour = answer.partition(" = ")[0].rpartition(", ")[2]
        assert f", {colour} = {name}</think>" in answer
        found[colour] = name
    assert found == names and len(answers) == len(names)


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_a_box_lesson_answers_the_boxes_of_its_question(seed):
    told, asked, pieces = copied(np.random.default_rng(seed), GRID)
    given_ = asked.removeprefix("In the reference: ").partition(" Give the boxes")[0]
    answer = pieces[0][0].removesuffix(END)
    assert answer_of(answer) == given_
    assert list(parse_boxes(answer, list(legend_of(told).values()), GRID)) == list(legend_of(told).values())


def test_only_what_the_legend_tells_is_learnt(loaded):
    for seed in range(20):
        ids, learnt = tokens_of(loaded.processor, np.random.default_rng(seed), GRID)
        assert len(ids) == len(learnt) and all(wanted in (IGNORED, token) for token, wanted in zip(ids, learnt))
        told = loaded.processor.tokenizer.decode([token for token in learnt if token != IGNORED])
        assert told.endswith(f"</answer>{END}")
        assert not any(f"{colour} =" in told for colour in COLOURS), "a colour is drawn, and cannot be known"


def test_lessons_are_padded_where_nothing_is_read_or_learnt(loaded):
    batch = read_batch(loaded.processor, GRID, 6, np.random.default_rng(1))
    ids, mask, labels = batch["text"]["input_ids"], batch["text"]["attention_mask"], batch["labels"]
    assert ids.shape == mask.shape == labels.shape and (mask.sum(1) < mask.shape[1]).any()
    pad = loaded.processor.tokenizer.pad_token_id
    assert (ids[mask == 0] == pad).all() and (labels[mask == 0] == IGNORED).all()
    kept = labels != IGNORED
    assert (labels[kept] == ids[kept]).all() and kept.any(1).all()


def test_a_lesson_teaches_the_language_model_and_leaves_the_eyes_alone(loaded):
    model = SftModel(loaded.reasoner)
    loss = model(**read_batch(loaded.processor, GRID, 2, np.random.default_rng(0)))["loss"]
    loss.backward()
    base = loaded.reasoner.base.model
    assert all(p.grad is None for p in base.visual.parameters())
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in base.language_model.layers[0].self_attn.parameters()
    )
    assert set(model.parts) == {"reading"} and float(loss.detach()) == pytest.approx(model.parts["reading"])
    model.zero_grad(set_to_none=True)


def test_a_thought_is_a_line_of_the_legend():
    assert thought_of("upper left", 2, "left kidney") == "upper left, blue = left kidney"


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_repeated_comes_again_and_can_be_known(apart):
    gaps = []
    for seed in range(30):
        batch = repeated(3, 900, np.random.default_rng(seed), apart)
        ids, labels = batch["text"]["input_ids"], batch["labels"]
        length = int((labels[0] != IGNORED).sum()) + 1
        assert LONGEST // 3 <= length <= LONGEST and ((labels != IGNORED).sum(1) == length - 1).all()
        assert torch.equal(ids[:, :length], ids[:, -length:])
        assert torch.equal(ids[:, 1 - length :], labels[:, 1 - length :])
        gaps.append(ids.shape[1] - 2 * length)
    assert max(gaps) > 20 if apart else set(gaps) == {0}


def test_a_run_reads_first_then_sees(tmp_path):
    run = Run(SftTraining(str(tmp_path), reading=0.5, sight=0.2, steps=100, dialogues=2, anatomies=4))
    rng = np.random.default_rng(0)
    assert all(run.reading(step, rng) for step in range(50))
    assert 0 < np.mean([run.reading(60, rng) for _ in range(400)]) < 0.3
    assert [run.looking(step) for step in (50, 69, 71)] == [True, True, False]
    first, later = run.batch([0, 1]), [run.batch([2 * step, 2 * step + 1]) for step in range(25, 50)]
    assert first["text"]["input_ids"].shape[1] <= 2 * LONGEST, "at first what is repeated comes at once"
    assert any("answer" in run.loaded.processor.tokenizer.decode(one["text"]["input_ids"][0]) for one in later)
    assert is_reader(run.loaded.reasoner.base)


def test_training_with_lessons_goes_on_where_it_stopped(tmp_path):
    settings_ = SftTraining(str(tmp_path), reading=0.6, sight=0.0, steps=4, dialogues=2, every=0, anatomies=4)
    list(train(replace(settings_, steps=2)))
    kept = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    table = load_reasoner(tmp_path / "reasoner").reasoner.base.lm_head.weight
    words = [name for name in kept if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    assert len(words) == 1 and torch.equal(kept[words[0]], table), "the table of words is kept once"
    list(train(settings_))
    assert (tmp_path / "checkpoint-4").is_dir()
    after = load_reasoner(tmp_path / "reasoner").reasoner.base
    assert is_reader(after) and after.lm_head.weight is after.model.language_model.embed_tokens.weight
