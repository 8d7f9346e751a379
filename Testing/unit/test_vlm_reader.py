"""A small language model opened for reading: it can look back, and find a word however far away it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from vlm_side import TINY, picture  # noqa: E402

from rau.vlm.dialogue import Dialogue, encode  # noqa: E402
from rau.vlm.reader import ACROSS, BACK, LOWEST, STILL, is_reader, look_across, open_reader  # noqa: E402
from rau.vlm.store import load_reasoner, new_reasoner, save_reasoner  # noqa: E402

LENGTH = 40


@pytest.fixture
def opened():
    vlm = new_reasoner(0, TINY).reasoner.base
    open_reader(vlm)
    return vlm


def turned(vlm, x):
    """(1, heads, L, width), turned as text is: its three kinds of positions are one."""
    angles = torch.arange(x.shape[2])[:, None] * vlm.model.language_model.rotary_emb.inv_freq
    one, other = x.chunk(2, -1)
    return torch.cat([one * angles.cos() - other * angles.sin(), other * angles.cos() + one * angles.sin()], -1)


def of_waves(vlm, waves):
    """(1, 1, L, width): the same at every place, in these waves alone."""
    count = len(vlm.model.language_model.rotary_emb.inv_freq)
    x = torch.zeros(1, 1, LENGTH, 2 * count)
    x[..., [*waves, *(wave + count for wave in waves)]] = torch.randn(2 * len(waves))
    return x


def test_what_still_waves_carry_is_found_at_any_distance_and_the_rest_is_not(opened):
    torch.manual_seed(0)
    same = of_waves(opened, STILL)
    moved = turned(opened, same)
    scores = (moved @ moved.transpose(2, 3))[0, 0]
    assert torch.allclose(scores, scores[0, 0].expand_as(scores), rtol=1e-4)
    other = of_waves(opened, [wave for wave in range(16) if wave not in STILL])
    moved = turned(opened, other)
    scores = (moved @ moved.transpose(2, 3))[0, 0]
    assert scores[:, 0].amax() == scores[0, 0] and scores[:, 0].amin() < 0.5 * scores[0, 0]


def test_the_first_heads_of_the_lowest_layers_look_back_by_their_steps(opened):
    torch.manual_seed(0)
    text = opened.model.language_model
    words = torch.randn(1, LENGTH, text.config.hidden_size)
    for layer in text.layers[:LOWEST]:
        asked, known = (
            one(words).view(1, LENGTH, -1, 32).transpose(1, 2)
            for one in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        q, k = turned(opened, asked), turned(opened, known)
        scores = q @ k.transpose(2, 3) / 32**0.5
        seen = scores.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(-1)[0]
        for head, back in enumerate(BACK):
            at = seen[head].diagonal(-back)
            assert at.mean() > 0.5, f"head {head} looks {back} back"
            assert (seen[head, back:].argmax(-1) == torch.arange(LENGTH - back)).all()


@pytest.mark.parametrize("names", [("liver",), ("liver", "left kidney", "spleen")])
def test_a_place_of_the_target_looks_at_the_same_place_of_the_overlay(names):
    loaded = new_reasoner(0, replace(TINY, layers=4))
    base, side = loaded.reasoner.base, loaded.grid
    open_reader(base)
    look_across(base, side)
    base.set_attn_implementation("eager")
    inputs = encode(loaded.processor, [Dialogue(names, "Which?", tuple(picture(k) for k in range(3)))]).inputs
    with torch.inference_mode():
        seen = base.model(**inputs, output_attentions=True).attentions
    reference, overlay, target = torch.nonzero(inputs["mm_token_type_ids"][0])[:, 0].view(3, -1)
    for layer in ACROSS:
        last = seen[layer][0, -1]
        for one, before in ((target, overlay), (overlay, reference)):
            found = last[one][:, before]
            assert (found.argmax(-1) == torch.arange(side**2)).all() and found.sum(-1).min() > 0.8


def test_words_are_written_with_the_table_that_reads_them(opened):
    assert opened.lm_head.weight is opened.model.language_model.embed_tokens.weight


def test_opening_twice_changes_nothing_more(opened):
    with torch.no_grad():
        for one in opened.parameters():
            one.add_(1)  # as if it had been trained
    before = {name: value.clone() for name, value in opened.state_dict().items()}
    open_reader(opened)
    assert all(torch.equal(value, before[name]) for name, value in opened.state_dict().items())


def test_an_opened_model_is_read_back_as_it_was(tmp_path):
    loaded = new_reasoner(0, TINY)
    open_reader(loaded.reasoner.base)
    save_reasoner(tmp_path / "vlm", loaded)
    back = load_reasoner(tmp_path / "vlm").reasoner.base
    assert is_reader(back)
    ids = torch.arange(300, 330)[None] % len(loaded.processor.tokenizer)
    with torch.inference_mode():
        mine, its = (one.eval()(input_ids=ids).logits for one in (loaded.reasoner.base, back))
    assert torch.equal(mine, its)


def test_one_that_was_not_opened_is_no_reader_and_small_heads_are_refused():
    assert not is_reader(new_reasoner(0, TINY).reasoner.base)
    with pytest.raises(ValueError, match="numbers"):
        open_reader(new_reasoner(0, replace(TINY, heads=4)).reasoner.base)
