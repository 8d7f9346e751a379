"""The target read again (papers.md B2): what the second reading sees, and that it sees nothing else."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlm_side import TINY, picture  # noqa: E402

from rau.vlm import again  # noqa: E402
from rau.vlm.dialogue import Dialogue, encode  # noqa: E402
from rau.vlm.locate import Locator  # noqa: E402
from rau.vlm.prefix import PrefixCache  # noqa: E402
from rau.vlm.prompts import GRID, question, segment_answer  # noqa: E402
from rau.vlm.store import new_reasoner  # noqa: E402

NAMES = ("liver", "left kidney", "a 7th thing")
TOKENS = TINY.grid**2


@pytest.fixture(scope="module")
def loaded():
    made = new_reasoner(3, TINY)
    made.reasoner.eval().requires_grad_(False)
    return made


def dialogue(names=NAMES, seed=0, target=2, asked=None):
    images = (picture(seed), picture(seed + 1), picture(target))
    return Dialogue(tuple(names), asked or question("segment", {}, GRID), images, segment_answer(names))


def states(loaded, *dialogues):
    """(released, conditioned), each (K, G G, H)."""
    encoded = encode(loaded.processor, dialogues)
    with torch.no_grad():
        reading = again.read_twice(loaded.reasoner, encoded)
    return tuple(again.target_states(reading, encoded.of, way) for way in ("released", "conditioned"))


def test_each_structure_has_states_at_the_tokens_of_the_target(loaded):
    released, conditioned = states(loaded, dialogue(), dialogue(NAMES[:1], 5))
    assert released.shape == conditioned.shape == (4, TOKENS, 64)
    assert torch.equal(released[0], released[2]), "as they come, all structures of a slice share them"
    apart = [(conditioned[a] - conditioned[b]).abs().amax() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 1e-3, "read again, each has its own"


def before(encoded, places):
    """(B, L) bool: the tokens before the target."""
    at = torch.arange(encoded.inputs["input_ids"].shape[1])[None]
    return (at < places[:, :1]) & encoded.inputs["attention_mask"].bool()


def test_with_nothing_more_to_see_the_second_reading_is_the_first(loaded, monkeypatch):
    """The same places, the same neighbours, the same order: only question and answer make the difference."""
    released, conditioned = states(loaded, dialogue(), dialogue(NAMES[:1], 5))
    assert (released - conditioned).abs().mean() > 1e-3
    monkeypatch.setattr(again, "seen_before", lambda encoded, places: before(encoded, places)[encoded.of])
    released, conditioned = states(loaded, dialogue(), dialogue(NAMES[:1], 5))
    assert torch.allclose(released, conditioned, atol=1e-5)


def test_the_question_moves_the_conditioned_states_and_not_the_released_ones(loaded):
    """The observation of B2: under a causal mask the picture has not seen what comes after it."""
    one, other = states(loaded, dialogue()), states(loaded, dialogue(asked="Where is the second structure?"))
    assert torch.allclose(one[0], other[0], atol=1e-6)
    assert (one[1] - other[1]).abs().amax() > 1e-3
    moved = states(loaded, dialogue(target=9))
    assert all((a - b).abs().amax() > 1e-3 for a, b in zip(one, moved)), "another target is seen by both"


def test_of_the_answer_a_structure_sees_its_own_name_and_state_alone(loaded):
    encoded = encode(loaded.processor, [dialogue(), dialogue(NAMES[1:], 5)])
    places = again.target_places(encoded.inputs)
    seen, ids = again.seen_before(encoded, places), encoded.inputs["input_ids"]
    words, asked = loaded.processor.tokenizer, question("segment", {}, GRID)
    told = [words.decode(ids[encoded.of[k]][seen[k]]) for k in range(5)]
    for text, name in zip(told, (*NAMES, *NAMES[1:])):
        answer = text.split(asked)[1]
        assert answer.count("<Seg>") == 1 and answer.endswith(f"{name}<Seg>")
        assert not any(other in answer for other in NAMES if other != name)
        assert text.count("<|image_pad|>") == 2 * TOKENS, "reference and overlay; the target is what is read"
    for row, own in enumerate(places):
        assert not seen[encoded.of == row][:, own].any() and (ids[row, own] == loaded.processor.image_token_id).all()


def test_padding_and_company_change_nothing(loaded):
    alone, both = states(loaded, dialogue(NAMES[:1], 7)), states(loaded, dialogue(NAMES, 9), dialogue(NAMES[:1], 7))
    assert all(torch.allclose(one[0], more[3], atol=1e-4) for one, more in zip(alone, both))


def test_the_way_is_off_unless_asked_for_and_needs_its_reading(loaded):
    encoded = encode(loaded.processor, [dialogue()])
    with torch.no_grad():
        once, twice = loaded.reasoner.read(encoded.inputs), again.read_twice(loaded.reasoner, encoded)
    assert torch.equal(once.hidden, twice.hidden) and torch.equal(once.target, twice.target), "the first is as it was"
    assert once.again is None and again.target_states(once, encoded.of, "off") is None
    with pytest.raises(ValueError, match="second reading"):
        again.target_states(once, encoded.of, "conditioned")


def test_the_second_reading_teaches_the_embedding_of_the_state_token(loaded):
    from rau.training.fusion_objective import Row

    encoded, row = encode(loaded.processor, [dialogue()]), Row(loaded.reasoner)
    with row.used_by(loaded.reasoner):
        reading = again.read_twice(loaded.reasoner, encoded)
    (released,) = torch.autograd.grad(reading.target.square().mean(), row.weight, retain_graph=True)
    (conditioned,) = torch.autograd.grad(reading.again.square().mean(), row.weight)
    assert not released.any(), "as they come, the states know nothing of it"
    assert conditioned.abs().sum() > 0


def test_a_large_reasoner_with_adapters_reads_again_too(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    from large_side import HIDDEN, SIDE, dialogue, settings_of, write_base

    from rau.vlm.large import load_large

    large = load_large(settings_of(write_base(tmp_path / "qwen")))
    released, conditioned = states(large, dialogue())
    assert released.shape == conditioned.shape == (2, (SIDE // 28) ** 2, HIDDEN) and released.dtype == torch.float32
    assert (conditioned[0] - conditioned[1]).abs().amax() > 1e-3
    monkeypatch.setattr(again, "seen_before", lambda encoded, places: before(encoded, places)[encoded.of])
    released, conditioned = states(large, dialogue())
    assert torch.allclose(released, conditioned, atol=0.05), "the same up to the rounding of bfloat16"


@pytest.mark.parametrize("two_way", ["released", "conditioned"])
def test_the_prefix_cache_changes_nothing_and_is_left_as_it_was(loaded, two_way):
    masks = {}
    for k, name in enumerate(NAMES):
        masks[name] = np.zeros((96, 96), bool)
        masks[name][5 + 6 * k : 25 + 6 * k, 10 + 5 * k : 50] = True
    plain, quick = Locator(loaded), Locator(loaded, PrefixCache("model"))
    for seed in (1, 2, 3):
        fresh, cached = (one.locate(picture(0), masks, picture(seed), two_way) for one in (plain, quick))
        usual = quick.locate(picture(0), masks, picture(seed))
        for name in NAMES:
            assert fresh[name].target.shape == (TOKENS, 64)
            assert np.allclose(fresh[name].target, cached[name].target, atol=1e-4)
            assert np.allclose(fresh[name].state, cached[name].state, atol=1e-4)
            assert np.allclose(usual[name].state, cached[name].state, atol=1e-5) and usual[name].target is None
    assert quick.cache.reused > quick.cache.computed / 3, "of six askings, five found the reference's part ready"
