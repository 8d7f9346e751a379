"""A data set of labelled images: its items hold what the masks hold; reviews say who and when, and lose nothing."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from builders import phantom
from rau.description.claims import check
from rau.description.dataset import FILE, Selection, box_of, build, geometry_of, mask_of, run_lengths, spatial_prompts
from rau.description.regions import regions, slice_of
from rau.description.review import Review, read_items, review_item, state_of
from rau.errors import InputError
from rau.models.engine import content_hash
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

masks = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
NOW = datetime(2026, 11, 26, 9, 30, tzinfo=timezone.utc)


@given(masks)
def test_run_lengths_are_undone_exactly(mask):
    lengths = run_lengths(mask)
    assert np.array_equal(mask_of(lengths, mask.shape), mask)
    assert sum(lengths) == mask.size and all(n > 0 for n in lengths[1:])
    assert sum(lengths[1::2]) == np.count_nonzero(mask)


@pytest.mark.parametrize("lengths", [[3], [5, 5], [4, -1, 3]])
def test_damaged_run_lengths_are_refused(lengths):
    with pytest.raises(InputError, match="damaged"):
        mask_of(lengths, (2, 3))


@given(masks)
def test_prompts_lie_inside_and_outside(mask):
    if not mask.any():
        return
    x0, y0, x1, y1 = box_of(mask)
    assert mask[y0:y1, x0:x1].sum() == mask.sum() and mask[y0].any() and mask[:, x1 - 1].any()
    prompts = spatial_prompts(mask)
    assert mask[prompts["point"][1], prompts["point"][0]]
    if prompts["outside"] is not None:
        assert not mask[prompts["outside"][1], prompts["outside"][0]]
    else:
        assert mask.all()


@pytest.fixture
def case():
    return phantom(Geometry((6, 24, 30), (4.0, 1.5, 1.2), (-20.0, 30.0, 100.0)))


@pytest.fixture
def built(tmp_path, case):
    build(tmp_path / "set", [case], Selection(fewest=4))
    return tmp_path / "set"


def test_items_are_the_masks_of_the_slices(built, case):
    volume, labels = case
    items = read_items(built / FILE)
    seen = {(one["slice"], one["value"]) for one in items}
    counts = {(k, v): int((labels.array[k] == v).sum()) for k in range(6) for v in (1, 2, 7)}
    assert seen == {key for key, count in counts.items() if count >= 4} and len(seen) == len(items)
    assert len({one["id"] for one in items}) == len(items)
    for one in items:
        mask = labels.array[one["slice"]] == one["value"]
        assert np.array_equal(mask_of(one["mask"], one["size"]), mask)
        assert one["box"] == box_of(mask) and state_of(one) == "open"
        assert one["description"]["facts"]["voxels"] == mask.sum()
        assert one["description"]["text"].startswith(f"{one['structure'].capitalize()}: ")
        place = geometry_of(one["grid"]).to_world(np.zeros((1, 3)))
        assert np.allclose(place, volume.geometry.to_world(np.array([[one["slice"], 0, 0]])))
        shown = regions(*slice_of(volume, labels, 0, one["slice"]))
        assert check(one["regions"], shown).accepted and one["colour"] in one["regions"]


def test_slices_lie_there_by_the_hash_of_their_pixels(built):
    for one in read_items(built / FILE):
        pixels = np.asarray(Image.open(built / "images" / f"{one['image']}.png"))
        assert content_hash(np.ascontiguousarray(pixels)) == one["image"] and list(pixels.shape) == one["size"]
    assert len(list((built / "images").iterdir())) == len({one["image"] for one in read_items(built / FILE)})


def test_the_same_cases_make_the_same_file(built, case, tmp_path):
    build(tmp_path / "again", [case], Selection(fewest=4))
    assert (tmp_path / "again" / FILE).read_bytes() == (built / FILE).read_bytes()


def test_every_nth_slice_and_several_cases(case, tmp_path):
    build(tmp_path / "set", [case, case], Selection(every=2, fewest=4))
    items = read_items(tmp_path / "set" / FILE)
    assert {one["slice"] % 2 for one in items} == {0} and {one["case"] for one in items} == {0, 1}


def test_nothing_of_the_source_is_in_it(built):
    assert "phantom" not in (built / FILE).read_text()


def test_a_colour_picture_makes_items_in_the_words_of_the_picture(tmp_path):
    array = np.zeros((1, 20, 30), np.uint8)
    array[0, 3:9, 2:10] = 1
    pixels = np.random.default_rng(0).integers(0, 255, (1, 20, 30, 3), dtype=np.uint8)
    grid = Geometry(array.shape)
    nucleus = LabelMap(array, grid, (Structure(1, "nucleus"),))
    build(tmp_path / "set", [(Volume(pixels, grid, "OT", spacing_known=False), nucleus)])
    (item,) = read_items(tmp_path / "set" / FILE)
    assert item["prompts"]["text"] == "nucleus, in the upper-left part"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "set" / "images" / f"{item['image']}.png")), pixels[0])


def test_an_earlier_data_set_is_not_replaced(built, case):
    before = (built / FILE).read_bytes()
    with pytest.raises(InputError, match="data set already"):
        build(built, [case])
    assert (built / FILE).read_bytes() == before


def test_without_any_item_there_is_no_file(tmp_path, case):
    with pytest.raises(InputError, match="large enough"):
        build(tmp_path / "set", [case], Selection(fewest=10_000))
    assert not (tmp_path / "set" / FILE).exists()


def test_reviews_say_who_and_when_and_the_last_one_counts(built):
    first, second = read_items(built / FILE)[:2]
    found, left = review_item(built, first["id"], Review("accept", " Dr Ada "), NOW)
    assert found["reviews"] == [{"verdict": "accept", "reviewer": "Dr Ada", "at": "2026-11-26T09:30:00+00:00"}]
    assert left == len(read_items(built / FILE)) - 1
    review_item(built / FILE, first["id"], Review("reject", "Dr Bo"), NOW)
    items = read_items(built / FILE)
    assert state_of(items[0]) == "reject" and [one["reviewer"] for one in items[0]["reviews"]] == ["Dr Ada", "Dr Bo"]
    assert items[1] == second
    assert {key: items[0][key] for key in first if key != "reviews"} == {k: first[k] for k in first if k != "reviews"}


def test_a_corrected_text_keeps_what_it_was(built, tmp_path):
    item = read_items(built / FILE)[0]
    (tmp_path / "better.txt").write_text("A better\ntext. ")
    found, _ = review_item(built, item["id"], Review("correct", "Dr Ada", tmp_path / "better.txt"), NOW)
    assert found["description"]["text"] == "A better text." and state_of(found) == "correct"
    assert found["description"]["facts"] == item["description"]["facts"]
    assert found["reviews"][0]["before"] == {"description": item["description"]}


def test_a_corrected_mask_brings_new_facts(built, tmp_path):
    items = read_items(built / FILE)
    item = next(one for one in items if one["value"] == 1)
    mask = mask_of(item["mask"], item["size"])
    mask[:, : mask.shape[1] // 4] = False
    mask[0, 0] = True
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    found, _ = review_item(built, item["id"], Review("correct", "Dr Ada", tmp_path / "mask.png"), NOW)
    assert np.array_equal(mask_of(found["mask"], found["size"]), mask) and found["box"] == box_of(mask)
    facts = found["description"]["facts"]
    assert facts["voxels"] == mask.sum() and facts["pieces"] == 2 and facts["unit"] == "mm"
    assert facts["intensity"]["unit"] == "grey levels" and "anterior" in facts["cut_off"]
    assert found["id"] == item["id"] and found["image"] == item["image"]
    assert found["reviews"][0]["before"]["mask"] == item["mask"]
    others = [one for one in read_items(built / FILE) if one["id"] != item["id"]]
    assert others == [one for one in items if one["id"] != item["id"]]


def test_unusable_reviews_are_refused_and_change_nothing(built, tmp_path):
    item, before = read_items(built / FILE)[0], (built / FILE).read_bytes()
    Image.fromarray(np.ones((3, 3), np.uint8)).save(tmp_path / "small.png")
    Image.fromarray(np.zeros(item["size"], np.uint8)).save(tmp_path / "empty.png")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "some.doc").write_text("x")
    for said, words in (
        (Review("accept", " "), "name of its reviewer"),
        (Review("correct", "Dr Ada"), "comes with a file"),
        (Review("accept", "Dr Ada", tmp_path / "small.png"), "comes with a file"),
        (Review("correct", "Dr Ada", tmp_path / "small.png"), "3 x 3 pixels"),
        (Review("correct", "Dr Ada", tmp_path / "empty.png"), "is empty"),
        (Review("correct", "Dr Ada", tmp_path / "empty.txt"), "empty"),
        (Review("correct", "Dr Ada", tmp_path / "some.doc"), "no correction"),
        (Review("correct", "Dr Ada", tmp_path / "none.txt"), "none.txt"),
    ):
        with pytest.raises(InputError, match=words):
            review_item(built, item["id"], said)
    with pytest.raises(InputError, match="no item nobody"):
        review_item(built, "nobody", Review("accept", "Dr Ada"))
    with pytest.raises(InputError):
        review_item(tmp_path / "nowhere.jsonl", "x", Review("accept", "Dr Ada"))
    assert (built / FILE).read_bytes() == before


def test_a_damaged_line_is_told(built):
    lines = (built / FILE).read_text().splitlines()
    (built / FILE).write_text("\n".join([lines[0], lines[1][:50]]))
    with pytest.raises(InputError, match="Line 2"):
        read_items(built / FILE)


def test_two_reviewers_at_once_lose_nothing(built):
    items = read_items(built / FILE)
    threads = [
        threading.Thread(target=review_item, args=(built, one["id"], Review("accept", f"Dr {k}")))
        for k, one in enumerate(items)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one["reviews"][0]["reviewer"] for one in read_items(built / FILE)] == [f"Dr {k}" for k in range(len(items))]
    assert json.loads((built / FILE).read_text().splitlines()[0])["format"] == 1
