"""GRPO on a tiny reasoner: TRL's numbers are ours, every task runs, runs resume, rewards move; seconds, not minutes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from rau.cli import main  # noqa: E402
from rau.errors import InputError  # noqa: E402
from rau.training import grpo, grpo_rewards  # noqa: E402
from rau.training.data import Anatomies, Mixture  # noqa: E402
from rau.training.items import (  # noqa: E402
    Item,
    Structure,
    shares_of,
)
from rau.training.sets import Mixtures  # noqa: E402
from rau.vlm.answers import write_boxes, write_label, write_segments  # noqa: E402
from rau.vlm.build import VlmShape  # noqa: E402
from rau.vlm.dialogue import Dialogue, encode, text_of  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner, save_reasoner  # noqa: E402

TINY = VlmShape(96, 12, 2, 64, 2, 2, 128, (32, 2, 2, 64), 48, (1,))
SMALL = {
    "steps": 2,
    "group": 2,
    "prompts": 2,
    "tokens": 6,
    "every": 2,
    "checks": 2,
    "warmup": 1,
    "rate": 1e-3,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    save_reasoner(folder / "reasoner", new_reasoner(3, TINY), {"steps": 1})
    return folder


@pytest.fixture(scope="module")
def few():
    """The sources of `mixtures`, but a few random anatomies alone: its phantoms take half a minute."""
    mixture = Mixture((("anatomies", 1.0, Anatomies(0, 4)),))
    return Mixtures(mixture, mixture, mixture, mixture)


@pytest.fixture
def settings(tmp_path, start, few, monkeypatch):
    monkeypatch.setattr(grpo, "mixtures", lambda *_: few)
    return grpo.GrpoTraining(str(tmp_path / "run"), str(start), **SMALL)


def weights(folder):
    loaded = load_reasoner(folder)
    return {key: value.clone() for key, value in loaded.reasoner.state_dict().items()}


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


REAL = grpo_rewards.Judge.__call__


def early(self, completion_ids, **_):
    """A reward that a random model earns too: the share of tokens in the first half of the vocabulary."""
    return [sum(token < 512 for token in ids) / len(ids) for ids in completion_ids]


def with_early(self, **columns):
    return [a + b for a, b in zip(REAL(self, **columns), early(self, **columns))]


@pytest.mark.parametrize("task", ["label", "boxes", "segment"])
def test_two_steps_change_the_vlm_and_leave_the_heads(task, settings, start, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(grpo_rewards.Judge, "__call__", with_early)
    scores = list(grpo.train(replace(settings, task=task)))
    assert [row["step"] for row in scores] == [0, 2] and all(0 <= row["reward"] <= 1.25 for row in scores)
    before, after = weights(start / "reasoner"), weights(tmp_path / "run" / "reasoner")
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("heads."))
    run = tmp_path / "run"
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert [row["step"] for row in rows_of(run / "log.csv")] == ["2"]
    assert [row["step"] for row in rows_of(run / "validation.csv")] == ["0", "2"]
    assert (run / "curves.png").stat().st_size > 1000
    record = json.loads((run / "reasoner" / "reasoner.json").read_text())["trained"]
    assert record["task"] == task and record["before"] == {"steps": 1}
    assert "".join(capfd.readouterr()) == ""


def test_a_run_goes_on_where_it_stood(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_rewards.Judge, "__call__", early)
    list(grpo.train(settings))
    halfway = weights(tmp_path / "run" / "reasoner")
    assert list(grpo.train(settings)) == []
    longer = replace(settings, steps=3, start="")  # what it began from is in the folder
    assert [row["step"] for row in grpo.train(longer)] == [3]
    after, reference = weights(tmp_path / "run" / "reasoner"), weights(tmp_path / "run" / "reference")
    moved = [float((after[key] - halfway[key]).abs().max()) for key in after]
    apart = [float((after[key] - reference[key]).abs().max()) for key in after]
    assert max(moved) > 0 and max(apart) > 0
    state = json.loads((tmp_path / "run" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["global_step"] == 3


def test_a_run_ends_by_the_clock_with_its_work_kept(settings, tmp_path):
    rows = list(grpo.train(replace(settings, minutes=0.001, every=10**6)))
    assert [row["step"] for row in rows] == [0, 1]
    assert (tmp_path / "run" / "reasoner" / "reasoner.json").is_file()
    assert list(grpo.train(replace(settings, minutes=0.001))) == []


def test_adapters_learn_and_are_merged_into_what_is_kept(settings, start, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_rewards.Judge, "__call__", early)
    list(grpo.train(replace(settings, lora=2, steps=3, rate=1e-2)))
    before, after = weights(start / "reasoner"), weights(tmp_path / "run" / "reasoner")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed and all("language_model" in key and "_proj.weight" in key for key in changed)


def test_a_reward_that_any_model_can_earn_rises(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo_rewards.Judge, "__call__", early)
    monkeypatch.setattr(grpo, "validate", lambda *_: {"reward": 0.0, "quality": 0.0})
    list(grpo.train(replace(settings, steps=15, every=15, group=8, prompts=2, rate=1e-2)))
    rewards = [float(row["reward"]) for row in rows_of(tmp_path / "run" / "log.csv")]
    assert len(rewards) == 3 and rewards[-1] > rewards[0] + 0.1


@pytest.fixture
def trainer(settings):
    run = grpo.Run(replace(settings, group=4, prompts=2, tokens=8, updates=2))
    return grpo.trainer_of(run, grpo.Watch(run))


def sampled(trainer):
    """A step's worth of answers, scored by TRL: its own batch, with the items."""
    trainer.model.train()
    rows = trainer.train_dataset[[0] * 4 + [1] * 4]
    items = rows["item"]
    inputs = [dict(zip(rows, values)) for values in zip(*rows.values())]
    return trainer._generate_and_score_completions(inputs), items


def test_the_log_probabilities_of_trl_are_those_of_a_forced_reading(trainer):
    """Three pictures a prompt, prompts of two lengths padded on the left: positions, pictures and tokens are right."""
    batch, items = sampled(trainer)
    lengths = batch["prompt_mask"].sum(1)
    assert lengths[0] != lengths[-1]
    loaded, tokenizer = trainer.run.loaded, trainer.run.loaded.processor.tokenizer
    for row, item in enumerate(items):
        ids = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        ours = encode(loaded.processor, [item.dialogue(answered=False)]).inputs
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        assert prompt.tolist() == ours["input_ids"][0].tolist()
        ours["input_ids"] = torch.cat([ours["input_ids"], ids[None]], 1)
        ours["attention_mask"] = torch.ones_like(ours["input_ids"])
        ours["mm_token_type_ids"] = (ours["input_ids"] == tokenizer.image_token_id).long()
        with torch.no_grad():
            hidden = loaded.reasoner.read(ours).hidden[0, len(prompt) - 1 : -1]
            said = loaded.reasoner.logits(hidden).log_softmax(-1)
        wanted = said.gather(1, ids[:, None])[:, 0]
        for key in ("old_per_token_logps", "ref_per_token_logps"):
            assert torch.allclose(batch[key][row][: len(ids)], wanted, atol=1e-3)


def test_a_picture_that_comes_again_is_seen_once():
    vlm = new_reasoner(0, TINY).reasoner.vlm.model
    pixels, grid = torch.randn(3 * 64, 864), torch.tensor([[1, 8, 8]] * 3)
    pixels[128:] = pixels[:64]
    plain = vlm.get_image_features(pixels, grid, return_dict=True).pooler_output
    seen = []
    vlm.visual.register_forward_hook(lambda *call: seen.append(len(call[1][0])))
    grpo.see_once(vlm)
    once = vlm.get_image_features(pixels, grid, return_dict=True).pooler_output
    assert seen == [128] and all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain, once))


def test_pictures_are_where_the_padded_prompts_have_them(trainer):
    """Why the processor is given to TRL with another padding side than the tokenizer's own."""
    good, _ = sampled(trainer)
    assert trainer.processing_class.tokenizer.padding_side == "left"
    assert trainer.run.loaded.processor.tokenizer.padding_side == "right"
    kinds = good["mm_token_type_ids"][:, : good["prompt_ids"].shape[1]]
    assert torch.equal(kinds.bool(), good["prompt_ids"] == trainer.run.loaded.processor.image_token_id)


def test_advantages_are_those_of_the_paper(trainer, monkeypatch):
    """A_i = (R_i - mean) / (std + 1e-4) in each group (papers.md A3.2); std is the one of a sample."""
    given = [1.25, 0.25, 0.0, 0.25, 0.5, 0.5, 0.5, 0.5]
    monkeypatch.setattr(grpo_rewards.Judge, "__call__", lambda *_, **__: given)
    batch, _ = sampled(trainer)
    groups = np.array(given).reshape(2, 4)
    wanted = (groups - groups.mean(1, keepdims=True)) / (groups.std(1, ddof=1, keepdims=True) + 1e-4)
    assert np.allclose(batch["advantages"].numpy(), wanted.ravel(), atol=1e-4)
    assert not batch["advantages"][4:].any()


def item(task, loaded):
    """Two structures; the second is not in the target."""
    side = loaded.picture
    there, gone = np.zeros((side, side), bool), np.zeros((side, side), bool)
    there[24:48, 24:72] = True
    structures = (Structure("liver", there, there), Structure("spleen", there.T, gone))
    grey = np.full((side, side, 3), 90, np.uint8)
    return Item(task, structures, (grey, grey), 0 if task == "label" else None)


def ids_of(loaded, one, text):
    """The tokens of an answer, as a model would have written them."""
    dialogue = Dialogue(one.names, one.question(), one.images(), text)
    asked = text_of(loaded.processor, replace(dialogue, answer=None))
    whole = text_of(loaded.processor, dialogue)
    return loaded.processor.tokenizer(whole[len(asked) :], add_special_tokens=False)["input_ids"]


def test_answers_are_read_from_their_tokens_and_not_from_what_trl_decodes():
    loaded = new_reasoner(0, TINY)
    judge, one = grpo_rewards.Judge(loaded), item("label", new_reasoner(0, TINY))
    ids = ids_of(loaded, one, write_label("liver", think="upper left"))
    assert "<answer>" not in loaded.processor.tokenizer.decode(ids, skip_special_tokens=True)
    wrong = ids_of(loaded, one, write_label("spleen"))
    assert judge(completion_ids=[ids, wrong, ids[:-3]], item=[one] * 3) == [1.25, 0.25, 0.0]
    one = item("boxes", loaded)
    ids = ids_of(loaded, one, write_boxes({s.name: s.box for s in one.structures}, loaded.convention))
    assert judge(completion_ids=[ids], item=[one])[0] > 1.2


def test_segments_earn_the_dice_of_the_masks_of_their_tokens():
    loaded = new_reasoner(0, TINY)
    loaded.reasoner.eval()
    judge, one = grpo_rewards.Judge(loaded), item("segment", loaded)
    both, first = write_segments({"liver": True, "spleen": True}), write_segments({"liver": True, "spleen": False})
    drafts = first.replace("<think>", "<think>a <Seg><Seg>")
    written = [ids_of(loaded, one, text) for text in (both, first, drafts)]
    texts = [grpo_rewards.text_of_ids(loaded.processor.tokenizer, ids) for ids in written]
    empty, right, thought = judge.judge([one] * 3, texts)
    inputs = encode(loaded.processor, [one.dialogue()])
    with torch.no_grad():
        reading = loaded.reasoner.read(inputs.inputs)
        anchors = torch.tensor([s.anchor for s in one.structures])
        shares = shares_of([s.reference for s in one.structures], loaded.cells)
        masks = loaded.reasoner.cues(reading, inputs.spots, inputs.of, anchors, shares).masks > 0
    dice = grpo_rewards.overlap(masks[0], shares_of([one.structures[0].target], loaded.cells)[0])
    assert right.reward == pytest.approx((dice + 1) / 2 + 0.25, abs=1e-5) and right.valid and thought.valid
    assert empty.reward == pytest.approx(dice / 2 + 0.25, abs=1e-5)
    assert judge.judge([one], ["<think></think><answer>liver <Seg></answer>"])[0].reward == 0
    assert judge.judge([one], [first.replace("<think>", "<think><|image_pad|>")])[0].quality == 0


def test_questions_depend_on_the_seed_and_their_number_alone(settings):
    one, other = grpo.Run(settings), grpo.Run(replace(settings, folder=settings.folder + "2"))
    one.question(4)
    a, b = one.question(1), other.question(1)
    assert a.names == b.names and np.array_equal(a.images()[2], b.images()[2])
    assert not np.array_equal(a.images()[2], one.question(2).images()[2])


def test_what_cannot_be_trained_is_refused(settings):
    for wrong in ({"task": "poem"}, {"group": 1}, {"accumulate": 3}, {"start": ""}):
        with pytest.raises(InputError):
            next(grpo.train(replace(settings, **wrong)))


def test_the_command_lists_both_and_imports_neither_before_it_must(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "sft" in shown and "grpo" in shown and "own answers" in shown
    for name, option in (("sft", "--dialogues"), ("grpo", "--temperature")):
        assert main(["train", name, "--help"]) == 0
        shown = capsys.readouterr().out
        assert option in shown and "How to train" in shown and f"train {name}" in shown
    assert main(["train", "grpo", "--folder", "x", "--nonsense"]) == 2
    code = "import sys, rau.commands.train; sys.exit('trl' in sys.modules or 'rau.training.sft' in sys.modules)"
    fresh = subprocess.run([sys.executable, "-c", code], check=False, env={"PYTHONPATH": ":".join(sys.path)})
    assert fresh.returncode == 0
