"""One routed answer: text, boxes, outlines and closer looks in one sequence, written and strictly read."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rau.vlm.answers import (
    AnswerError,
    DuplicateLabelError,
    MissingLabelError,
    NoAnswerError,
    UnknownLabelError,
)
from rau.vlm.routing import (
    ASKS,
    MODALITIES,
    UNKNOWN,
    Route,
    RoutedAnswer,
    RouteError,
    UnknownModalityError,
    checked,
    forced,
    in_words,
    parse_marked,
    parse_routed,
    question,
    write_routed,
)
from rau.vlm.vocabulary import DET, LOOK, SEG

NAMES = ("liver", "left kidney", "gallbladder")
GOOD = f"computed tomography, liver {DET} {SEG}; left kidney absent; gallbladder {DET} {SEG} {LOOK};"
PIECES = [DET, SEG, LOOK, "absent", ";", ",", " ", "\n", "<answer>", "</answer>", "</think>", "ß", *MODALITIES[:2]]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map("".join)
names_of_all_kinds = st.lists(texts.filter(str.strip), min_size=1, max_size=5, unique=True)
thoughts = texts.filter(lambda text: "</think>" not in text)


def possible(marked):
    def can(asks):
        try:
            return bool(checked(asks, marked))
        except ValueError:
            return False

    return st.sets(st.sampled_from(ASKS)).map(sorted).filter(can)


@st.composite
def answers(draw, marked=False):
    """Names, asks, and an answer that fits them."""
    names, asks = draw(names_of_all_kinds), draw(possible(marked))
    modality = draw(st.sampled_from(MODALITIES)) if "name" in asks else ""
    looks = st.booleans() if "look" in asks else st.just(False)
    there = looks.map(lambda look: Route(True, look))
    said = [draw(st.sampled_from(names))] if marked else names
    routes = {name: draw(there if marked else there | st.just(Route(False))) for name in said}
    return names, asks, RoutedAnswer(modality, routes)


def answered(text):
    return f"<think>as in the reference</think><answer>{text}</answer>"


def test_one_answer_says_modality_names_boxes_outlines_and_looks():
    found = parse_routed(answered(GOOD), NAMES, ASKS)
    assert found.modality == "computed tomography"
    assert found.routes == {"liver": Route(True), "left kidney": Route(False), "gallbladder": Route(True, True)}
    assert write_routed(found, ASKS) == f"<think></think><answer>{GOOD}</answer>"
    assert in_words(found) == "Computed tomography. Seen: liver, gallbladder (small). Not seen: left kidney."


def test_the_marked_structure_is_answered_as_modality_and_class():
    assert parse_marked(answered("Computed Tomography, Liver;"), NAMES, ("name",)) == RoutedAnswer(
        "computed tomography", {"liver": Route(True)}
    )
    assert write_routed(RoutedAnswer("X-ray", {"rib": Route(True)}), ("name",), None) == "X-ray, rib;"
    more = f"ultrasound, gallbladder{DET}{SEG}{LOOK} ;\n"
    assert parse_marked(answered(more), NAMES, ASKS).routes == {"gallbladder": Route(True, True)}


@given(answers(), thoughts)
def test_any_answer_that_fits_its_question_is_read_as_it_was_written(made, think):
    names, asks, answer = made
    assert parse_routed(write_routed(answer, asks, think), names, asks) == answer


@given(answers(marked=True), thoughts)
def test_any_answer_of_a_marked_structure_is_read_as_it_was_written(made, think):
    names, asks, answer = made
    assert parse_marked(write_routed(answer, asks, think), names, asks) == answer


@st.composite
def spoilt(draw, marked=False):
    """An answer with a piece taken out, put in or moved."""
    names, asks, answer = draw(answers(marked))
    text = write_routed(answer, asks)
    first, last = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
    put = draw(texts | st.just(text[first:last]))
    at = draw(st.integers(0, len(text) - (last - first)))
    rest = text[:first] + text[last:]
    return names, asks, rest[:at] + put + rest[at:]


@given(spoilt())
def test_a_spoilt_answer_is_a_typed_fault_or_another_well_formed_answer(made):
    names, asks, text = made
    try:
        found = parse_routed(text, names, asks)
    except AnswerError as fault:
        assert fault.message and "\n" not in fault.message
    else:
        assert list(found.routes) == names
        assert parse_routed(write_routed(found, asks), names, asks) == found


@given(spoilt(marked=True))
def test_a_spoilt_answer_of_a_marked_structure_is_a_typed_fault_or_well_formed(made):
    names, asks, text = made
    try:
        found = parse_marked(text, names, asks)
    except AnswerError as fault:
        assert fault.message and "\n" not in fault.message
    else:
        assert parse_marked(write_routed(found, asks), names, asks) == found


@given(texts)
def test_any_text_at_all_is_read_or_is_a_typed_fault(text):
    for read in (parse_routed, parse_marked):
        for whole in (text, answered(text), answered(f"ultrasound, {text}")):
            with contextlib.suppress(AnswerError):
                read(whole, NAMES, ASKS)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (NoAnswerError, None),
        (UnknownModalityError, GOOD.replace("computed", "guessed")),
        (UnknownModalityError, GOOD.removeprefix("computed tomography, ")),
        (UnknownModalityError, GOOD.replace("tomography,", "tomography;")),
        (MissingLabelError, GOOD.replace(" left kidney absent;", "")),
        (MissingLabelError, "ultrasound, "),
        (DuplicateLabelError, GOOD.replace("left kidney", "liver")),
        (UnknownLabelError, GOOD.replace("left kidney", "spleen")),
        (RouteError, GOOD.replace(DET, "", 1)),
        (RouteError, GOOD.replace(f"{DET} {SEG}", f"{SEG} {DET}", 1)),
        (RouteError, GOOD.replace("absent;", "absent")),
        (RouteError, GOOD.replace("absent", f"absent {DET}")),
        (RouteError, GOOD.replace(LOOK, f"{LOOK} {LOOK}")),
        (RouteError, GOOD + f" {DET}"),
    ],
)
def test_each_fault_has_its_type(fault, said):
    with pytest.raises(AnswerError) as caught:
        parse_routed(GOOD if said is None else answered(said), NAMES, ASKS)
    assert type(caught.value) is fault


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RouteError, f"ultrasound, liver {DET} {SEG}"),
        (RouteError, f"ultrasound, liver {SEG};"),
        (UnknownLabelError, f"ultrasound, rib {DET} {SEG};"),
        (MissingLabelError, f"ultrasound, {DET} {SEG};"),
        (UnknownModalityError, f"liver {DET} {SEG};"),
    ],
)
def test_each_fault_of_a_marked_structure_has_its_type(fault, said):
    with pytest.raises(AnswerError) as caught:
        parse_marked(answered(said), NAMES, ASKS)
    assert type(caught.value) is fault


def test_a_token_that_was_not_asked_for_is_a_fault():
    assert parse_routed(answered(f"liver {DET};"), NAMES[:1], ("box",)).routes == {"liver": Route(True)}
    for said in (f"liver {DET} {SEG};", f"liver {DET} {LOOK};", "computed tomography, liver <Det>;"):
        with pytest.raises(AnswerError):
            parse_routed(answered(said), NAMES[:1], ("box",))


def test_questions_that_cannot_be_answered_are_the_callers_fault():
    assert question(("look", "box")) == "Give the boxes. Which is small?"
    assert "white" in question(("name",), marked=True) and "white" not in question(ASKS)
    for asks, marked in ((("name",), False), (("look",), False), (("box",), True), (("name", "look"), True)):
        with pytest.raises(ValueError, match="no such question"):
            question(asks, marked)
    with pytest.raises(ValueError, match="no such question"):
        checked(("box", "taste"))
    with pytest.raises(ValueError, match="distinct"):
        parse_routed(answered(GOOD), ("liver", "liver"), ASKS)


def test_the_forced_answer_holds_every_token_of_every_structure():
    text = forced(NAMES, ASKS, UNKNOWN)
    assert [text.count(token) for token in (DET, SEG, LOOK)] == [3, 3, 3]
    assert all(route == Route(True, True) for route in parse_routed(text, NAMES, ASKS).routes.values())


@pytest.mark.parametrize("piece", [" ", ";", DET, f"{LOOK} ", "computed tomography, ", "absent;"])
def test_long_answers_are_read_in_linear_time(piece):
    start = time.perf_counter()
    for read in (parse_routed, parse_marked):
        with pytest.raises(AnswerError):
            read(answered("ultrasound, liver" + piece * 100_000 + "x"), NAMES, ASKS)
    assert time.perf_counter() - start < 1
