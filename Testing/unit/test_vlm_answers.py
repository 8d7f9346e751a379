"""What the VLM writes: strict reading, lenient reading, writing, asking again."""

from __future__ import annotations

import json
import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.vlm.answers import (
    AnswerError,
    BoxError,
    DuplicateLabelError,
    MissingLabelError,
    NoAnswerError,
    NotBoxListError,
    NotJsonError,
    SegCountError,
    UnknownLabelError,
    ask_until,
    parse_boxes,
    parse_label,
    parse_segments,
    salvage_boxes,
    write_boxes,
    write_label,
    write_segments,
)
from rau.vlm.boxes import Convention

GRID = Convention("grid", 100)
NAMES = ("liver", "spleen", "gallbladder")
PIECES = [
    "absent",
    "<Seg>",
    ",",
    '"',
    "'",
    "{",
    "}",
    "[",
    "]",
    "\\",
    "\n",
    " ",
    "<answer>",
    "</answer>",
    "</think>",
    "ß",
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map("".join)
names_of_all_kinds = st.lists(texts.filter(str.strip), min_size=1, max_size=5, unique=True)
thoughts = texts.filter(lambda text: "</think>" not in text)
spans = st.tuples(st.integers(0, 99), st.integers(1, 100)).filter(lambda s: s[0] < s[1])
boxes_or_absent = st.none() | st.tuples(spans, spans).map(lambda s: GRID.read((s[0][0], s[1][0], s[0][1], s[1][1])))


def answered(text: str) -> str:
    return f"<think>as in the reference</think><answer>{text}</answer>"


def listed(*items: object) -> str:
    return answered(json.dumps(items))


def item(label: object, *numbers: object) -> dict[str, object]:
    return {"label": label, "bbox_2d": list(numbers) or None}


# labels


@pytest.mark.parametrize("said", ["Liver", " liver\n", "liver"])
def test_a_label_is_recognised_whatever_its_case_and_outer_space(said):
    assert parse_label(answered(said), NAMES) == "liver"


@pytest.mark.parametrize("said", ["the liver", "liver, spleen", "", "kidney"])
def test_anything_but_one_of_the_names_is_an_unknown_label(said):
    with pytest.raises(UnknownLabelError, match="not asked for"):
        parse_label(answered(said), NAMES)


def test_names_that_differ_in_case_alone_must_be_said_exactly():
    assert parse_label(answered("LV"), ("LV", "lv")) == "LV"
    with pytest.raises(UnknownLabelError):
        parse_label(answered("Lv"), ("LV", "lv"))


@pytest.mark.parametrize(
    "text", ["", "liver", "<answer>liver</answer>", "<think>x</think>liver", "<think>x<answer>liver</answer>"]
)
def test_without_the_layout_there_is_no_answer(text):
    for read in (parse_label, partial(parse_boxes, convention=GRID), parse_segments):
        with pytest.raises(NoAnswerError):
            read(text, NAMES)


@pytest.mark.parametrize("names", [(), ("a", "a"), ("a", " ")])
def test_repeated_or_blank_names_are_the_callers_fault(names):
    if names:
        with pytest.raises(ValueError, match="distinct"):
            parse_label(answered("a"), names)
    else:
        assert parse_boxes(answered("[]"), names, GRID) == {} and parse_segments(answered(" "), names) == {}


# boxes, strictly


def test_boxes_come_in_the_order_of_the_request_and_null_is_absent():
    text = listed(item("Spleen"), item("liver", 10, 20, 30, 40.0), item("gallbladder", 0, 0, 100, 100))
    found = parse_boxes(text, NAMES, GRID)
    assert list(found) == list(NAMES)
    assert found == {"liver": (0.1, 0.2, 0.3, 0.4), "spleen": None, "gallbladder": (0, 0, 1, 1)}


def test_boxes_are_written_as_the_papers_examples():
    text = write_boxes({"liver": (0.01, 0.02, 0.03, 0.04), "spleen": None}, GRID)
    boxes = '[{"label": "liver", "bbox_2d": [1, 2, 3, 4]}, {"label": "spleen", "bbox_2d": null}]'
    assert text == f"<think></think><answer>{boxes}</answer>"
    assert write_boxes({"liver": (0.01, 0.02, 0.03, 0.04), "spleen": None}, GRID, think=None) == boxes


@pytest.mark.parametrize(
    "numbers",
    [
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        ("1", 2, 3, 4),
        (True, 2, 3, 4),
        (1, 2, None, 4),
        (1, 2, [3], 4),
        (float("nan"), 2, 3, 4),
        (1, 2, float("inf"), 4),
        (1, 2, 10**400, 4),
        (30, 2, 3, 4),
        (3, 20, 4, 4),
        (3, 2, 3, 4),
        (-1, 2, 3, 4),
        (1, 2, 101, 4),
    ],
)
def test_a_box_must_be_four_finite_numbers_in_order_inside_the_picture(numbers):
    with pytest.raises(BoxError) as caught:
        parse_boxes(listed(item("liver", *numbers)), ["liver"], GRID)
    assert caught.value.label == "liver"


@pytest.mark.parametrize(
    "text, error",
    [
        (answered("liver at 1, 2, 3, 4"), NotJsonError),
        (answered('[{"label": "liver", "bbox_2d": [1, 2, 3, 4]}'), NotJsonError),
        (answered("[" * 100_000), NotJsonError),
        (answered("[" + "9" * 100_000 + "]"), NotBoxListError),
        (answered('{"label": "liver", "bbox_2d": null}'), NotBoxListError),
        (listed([1, 2, 3, 4]), NotBoxListError),
        (listed({"label": "liver"}), NotBoxListError),
        (listed(item(3)), NotBoxListError),
        (listed({**item("liver"), "score": 1}), NotBoxListError),
        (listed(item("kidney", 1, 2, 3, 4)), UnknownLabelError),
        (listed(item("liver"), item("LIVER ")), DuplicateLabelError),
        (listed(item("liver"), item("spleen")), MissingLabelError),
    ],
)
def test_every_fault_of_a_box_list_has_its_own_error(text, error):
    with pytest.raises(error) as caught:
        parse_boxes(text, NAMES, GRID)
    assert type(caught.value) is error and "\n" not in str(caught.value) and len(str(caught.value)) < 120


# boxes, leniently


@pytest.mark.parametrize(
    "text",
    [
        'Here you are: [{"label": "liver", "bbox_2d": [10, 20, 30, 40]}] I hope it helps {really}.',
        '```json\n[\n{"bbox_2d": [10, 20, 30, 40], "label": "Liver", "note": "large"},\n]\n```',
        '<think>[{"label": "liver", "bbox_2d": [1, 1, 2, 2]}]</think> {"label": "liver", "bbox_2d": [10,20,30,40]}',
        '{"boxes": [{"label": "liver", "bbox_2d": [10, 20, 30, 40]}]}',
        '[{"label": "liver", "bbox_2d": [10, 20, 30, 40]}, {"label": "spl',
        '<answer>{"organs": [[{"label": "liver", "bbox_2d": [10, 20, 30, 40]}',
        answered('[{"label": "liver", "bbox_2d": [30, 40, 10, 20]}]'),
    ],
)
def test_a_box_is_found_in_prose_fences_and_answers_cut_off(text):
    assert salvage_boxes(text, ["liver"], GRID) == ({"liver": (0.1, 0.2, 0.3, 0.4)}, [])


def test_a_box_partly_outside_is_clipped_and_one_wholly_outside_is_dropped():
    text = listed(item("liver", -10, 20, 130, 40), item("spleen", 120, 20, 130, 40), item("gallbladder", 5, 5, 5, 9))
    found, faults = salvage_boxes(text, NAMES, GRID)
    assert found == {"liver": (0, 0.2, 1, 0.4)}
    assert [(type(f), f.label) for f in faults] == [(BoxError, "spleen"), (BoxError, "gallbladder")]
    assert "outside" in faults[0].message and "no area" in faults[1].message


def test_good_boxes_are_kept_beside_one_error_for_each_fault():
    text = listed(
        item("liver", 1, 2, 3, 4), item("liver", 5, 6, 7, 8), item("kidney", 1, 2, 3, 4), item(7), {"label": "spleen"}
    )
    found, faults = salvage_boxes(text, (*NAMES, "colon"), GRID)
    assert found == {"liver": (0.01, 0.02, 0.03, 0.04)}
    kinds = [DuplicateLabelError, UnknownLabelError, NotBoxListError, BoxError, MissingLabelError, MissingLabelError]
    assert [type(f) for f in faults] == kinds


def test_a_good_box_after_a_faulty_one_of_the_same_name_counts():
    found, faults = salvage_boxes(listed(item("liver", 1), item("liver", 1, 2, 3, 4)), ["liver"], GRID)
    assert list(found) == ["liver"] and [type(f) for f in faults] == [BoxError]


def test_an_answer_without_any_box_is_one_fault():
    found, faults = salvage_boxes("I cannot see it.", NAMES, GRID)
    assert not found and [type(f) for f in faults] == [NotJsonError]


# segments


def test_segments_are_one_token_or_absent_for_each_name():
    text = answered("Liver <Seg>,spleen<Seg> ,\ngallbladder absent ")
    assert parse_segments(text, NAMES) == {"liver": True, "spleen": True, "gallbladder": False}
    written = write_segments({"liver": True, "gallbladder": False}, "both")
    assert written == "<think>both</think><answer>liver <Seg>, gallbladder absent</answer>"


@pytest.mark.parametrize(
    "text, error",
    [
        ("liver <Seg>, spleen <Seg>", MissingLabelError),
        ("liver <Seg>, gallbladder absent", MissingLabelError),
        ("", MissingLabelError),
        ("liver <Seg>, liver <Seg>, gallbladder absent", DuplicateLabelError),
        ("liver <Seg>, kidney <Seg>, gallbladder absent", UnknownLabelError),
        ("liver <Seg> <Seg>, spleen <Seg>, gallbladder absent", SegCountError),
        ("liver, spleen <Seg>, gallbladder absent", SegCountError),
        ("liver <Seg>, spleen <Seg>, gallbladder absent <Seg>", SegCountError),
        ("liver <Seg>, spleen <Seg>, gallbladder absent, kidney <Seg>", SegCountError),
        ("liver <Seg>, spleen <Seg>, gallbladder absently", SegCountError),
    ],
)
def test_every_fault_of_a_segment_answer_has_its_own_error(text, error):
    with pytest.raises(error) as caught:
        parse_segments(answered(text), NAMES)
    assert type(caught.value) is error


# properties


@given(names_of_all_kinds, thoughts, st.data())
def test_whatever_the_names_hold_what_is_written_is_read_back(names, think, data):
    name = data.draw(st.sampled_from(names))
    boxes = {n: data.draw(boxes_or_absent) for n in names}
    present = {n: data.draw(st.booleans()) for n in names}
    assert parse_label(write_label(name, think), names) == name
    assert parse_boxes(write_boxes(boxes, GRID, think), names, GRID) == boxes
    assert salvage_boxes(write_boxes(boxes, GRID, think), names, GRID) == (boxes, [])
    assert parse_segments(write_segments(present, think), names) == present


@given(st.text(), boxes_or_absent, st.text(alphabet="abc .,:[]", max_size=20))
def test_boxes_survive_prose_around_them(before, box, after):
    text = before.replace("{", "").replace("<", "") + write_boxes({"liver": box}, GRID, think=None) + after
    assert salvage_boxes(text, ["liver"], GRID)[0] == {"liver": box}


junk = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from([*NAMES, "label", "bbox_2d", 10**500]),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["label", "bbox_2d", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
).map(json.dumps)


@given(st.one_of(texts, st.text(), junk), st.booleans())
def test_no_text_raises_anything_but_an_answer_error(text, wrap):
    text = answered(text) if wrap else text
    for read in (parse_label, partial(parse_boxes, convention=GRID), parse_segments):
        try:
            read(text, NAMES)
        except AnswerError as error:
            assert "\n" not in str(error)
    found, faults = salvage_boxes(text, NAMES, GRID)
    assert set(found) <= set(NAMES) and all(isinstance(fault, AnswerError) for fault in faults)
    assert set(found) == set(NAMES) or faults


@pytest.mark.parametrize(
    "unit",
    ["[", "{", '{"', '{"a":', '{"label":', '[{"label":"liver","bbox_2d":[1,2,3,4]},', "{}", '"', "\\", " ", "9", "1e9,"]
    + ["<think>", "</think>", "<answer>", "</answer>", "liver <Seg>, ", "<Seg>", "liver", '{"a":{"b":1},', "[{}],"],
)
def test_a_megabyte_of_anything_is_read_within_seconds(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.perf_counter()
    for one in (text, answered(text), '{"a":' * 900 + text):
        for read in (parse_label, partial(parse_boxes, convention=GRID), parse_segments):
            with pytest.raises(AnswerError):
                read(one, NAMES)
        salvage_boxes(one, NAMES, GRID)
    assert time.perf_counter() - start < 20  # the square of it would take hours


# asking again


def test_only_what_is_missing_or_faulty_is_asked_again():
    asked = []
    replies = [listed(item("liver", 1, 2, 3, 4), item("spleen", 1, 2)), listed(item("spleen", 1, 2, 3, 4)), "no"]

    def ask(names, wrong):
        asked.append((tuple(names), wrong))
        return replies[len(asked) - 1]

    found, left = ask_until(ask, NAMES, partial(salvage_boxes, convention=GRID))
    assert list(found) == ["liver", "spleen"] and left == ["gallbladder"]
    assert [names for names, _ in asked] == [NAMES, ("spleen", "gallbladder"), ("gallbladder",)]
    assert asked[0][1] == "" and "'spleen' is not four numbers" in asked[1][1] and "\n" not in asked[1][1]


def test_nothing_is_asked_again_once_all_is_answered_and_nothing_at_all_without_names():
    calls = []
    good = listed(*(item(name) for name in NAMES))
    parse = partial(salvage_boxes, convention=GRID)
    assert ask_until(lambda names, wrong: calls.append(names) or good, NAMES, parse) == (dict.fromkeys(NAMES), [])
    assert ask_until(lambda names, wrong: calls.append(names) or good, (), parse) == ({}, [])
    assert len(calls) == 1
