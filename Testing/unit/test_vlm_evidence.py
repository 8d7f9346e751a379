"""The thought of an answer, the attention of the `<Seg>` states as a summary and as a picture."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from rau.vlm.evidence import draw_attention, slot_names, summary, thought_of  # noqa: E402


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>upper left</think><answer>liver</answer>", "upper left"),
        ("<think>\n two\nlines \n</think>", "two\nlines"),
        ("<think>cut off", "cut off"),
        ("<think>never closed<answer>liver</answer>", "never closed"),
        ("a<think>one</think><think>two</think>", "one"),
        ("<think></think><answer></answer>", ""),
        ("<answer>liver</answer></think>", ""),
        ("", ""),
    ],
)
def test_a_thought_is_read_from_any_text(text, thought):
    assert thought_of(text) == thought


def test_slots_are_named_in_the_order_of_the_fusion():
    from rau.sam.fusion import Slots

    names = slot_names(2, 2)
    rows = torch.zeros(1, 2, 8)
    slots = Slots(rows, rows, torch.zeros(1, 2, 4, 8), torch.ones(1, 2, dtype=torch.bool))
    assert len(names) == slots.mask.shape[1]
    assert names[:3] == ("reference 1: prototype", "reference 1: pointer", "reference 1: memory 0,0")
    assert names[-1] == "reference 2: memory 1,1"
    assert slot_names() == ("prototype", "pointer")


def test_the_summary_says_how_sharp_the_attention_is_and_whether_it_collapsed():
    names, slots = ("liver", "spleen"), slot_names()
    apart = summary(torch.tensor([[1.0, 0.0], [0.25, 0.75]]), names, slots)
    assert apart["warning"] == "" and 0.3 < apart["entropy"] < 0.5
    assert apart["attended"][1] == {"structure": "spleen", "slot": "pointer", "weight": 0.75}
    same = summary(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), names, slots)
    assert same["entropy"] == 0 and "slot 0" in same["warning"]
    absent = torch.tensor([[True, True], [False, False]])
    missing = summary(torch.tensor([[0.5, 0.5], [0.0, 0.0]]), names, slots, absent)
    assert missing["attended"][1]["slot"] == "" and missing["entropy"] == 0.5
    assert summary(torch.zeros(0, 2), (), slots) == {"entropy": 0.0, "warning": "", "attended": []}


def test_the_picture_shows_weights_and_leaves_out_what_takes_no_part(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    from PIL import Image

    backend = matplotlib.get_backend()
    names, alpha = ("liver", "spleen", "left kidney"), torch.tensor([[1.0, 0.0], [0.2, 0.8], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [True, True], [False, False]])
    for wide, one in ((alpha, mask), (alpha.repeat(1, 30), None)):
        slots = [f"slot {i}" for i in range(wide.shape[1])]
        path = draw_attention(tmp_path / "alpha.png", wide, names, slots, one)
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 20)
            assert picture.size[0] > 200 and len(colours) > 20
    assert matplotlib.get_backend() == backend


def test_shapes_that_differ_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 structures and 2 slots"):
        summary(torch.zeros(2, 2), ("liver",), slot_names())
    with pytest.raises(ValueError, match="3 slots"):
        draw_attention(tmp_path / "x.png", torch.zeros(1, 2), ("liver",), ("a", "b", "c"))
    with pytest.raises(ValueError, match="no attention"):
        draw_attention(tmp_path / "x.png", torch.zeros(0, 2), (), slot_names())
