"""Retrieval that picks: what is known speaks first, then looks; every doubt is said; the user has the last word."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from rau.bank import descriptors
from rau.bank.bank import Bank
from rau.bank.descriptors import encoder_key, mean_of, slice_descriptors, volume_descriptors
from rau.bank.files import image_hash
from rau.bank.search import LEAST, NEAREST, Candidate, doubted_by_looks, judged, modality_by_looks, pick, rank
from rau.cli import main
from rau.errors import InputError
from rau.models import store
from rau.models.engine import Engine, load_engine
from rau.references.reference import Reference
from rau.settings import BANK_REFERENCES, SegmentSettings
from rau.training.patient import patient_pair
from rau.volume.volume import Geometry, LabelMap, Structure, Volume


@pytest.fixture(scope="module")
def engine(random_model) -> Engine:
    return load_engine(SegmentSettings(model=str(random_model), device="cpu", threads=1))


@pytest.fixture
def bank(tmp_path) -> Bank:
    return Bank.create(tmp_path / "bank")


def case(seed: int, names: tuple[str, ...] = ("liver", "spleen"), modality: str = "CT", shape=(5, 24, 26)) -> Reference:
    """Blobs in noise."""
    rng = np.random.default_rng(seed)
    grid = Geometry(shape, (4.0, 1.0, 1.0))
    labels = np.zeros(shape, np.uint8)
    for number in range(len(names)):
        labels[:, 4 + 6 * number : 9 + 6 * number, 5:15] = number + 1
    image = (rng.normal(0, 20, shape) + 200 * labels).astype(np.int16)
    structures = tuple(Structure(number + 1, name) for number, name in enumerate(names))
    return Reference(Volume(image, grid, modality), LabelMap(labels, grid, structures))


def picture(seed: int, colour: bool = False) -> Reference:
    one = case(seed, modality="", shape=(1, 24, 26))
    grey = np.clip(one.image.array, 0, 255).astype(np.uint8)
    array = np.stack([grey] * 3, -1) if colour else grey
    return Reference(Volume(array, one.image.geometry, "OT" if colour else "", spacing_known=False), one.labels)


def target(seed: int = 99, **changes) -> Volume:
    return replace(case(seed).image, **changes)


def test_what_is_picked_is_the_reference_itself_with_its_reason(bank, engine):
    one = case(1)
    entry = bank.add(one, title="one")
    found = pick(bank, target(), engine)
    (reference,), (chosen,) = found.references, found.chosen
    assert np.array_equal(reference.labels.array, one.labels.array) and chosen.entry == entry
    assert chosen.reason.startswith(f"similarity {chosen.similarity:.2f}; CT; shows liver, spleen")
    told = found.report()["used"][0]
    assert told["id"] == entry.id and told["reason"] == chosen.reason and json.dumps(told)


def test_the_image_that_looks_most_alike_is_the_first(bank, engine):
    like = case(1)
    entries = [bank.add(case(seed)) for seed in range(5, 8)] + [bank.add(like)]
    noisy = like.image.with_array((like.image.array + 1).astype(np.int16))
    ranked = rank(bank, noisy, engine)
    assert ranked[0].entry.id == entries[-1].id and ranked[0].similarity > 0.999
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)


def test_another_modality_is_behind_every_match_and_told_or_refused(bank, engine):
    told: list[str] = []
    wrong = bank.add(case(1, modality="MR"))
    found = pick(bank, target(), engine, tell=told.append)
    assert found.chosen[0].entry.id == wrong.id and "is MR, the target CT" in told[0]
    with pytest.raises(InputError, match="is MR, the target CT") as caught:
        pick(bank, target(), engine, on_mismatch="refuse")
    assert "\n" not in str(caught.value)
    right = bank.add(case(2))
    assert [one.entry.id for one in rank(bank, target(), engine)] == [right.id, wrong.id]
    for way in ("refuse", "warn"):
        found = pick(bank, target(), engine, count=2, on_mismatch=way)
        assert [one.entry.id for one in found.chosen] == [right.id]
        assert [one.entry.id for one in found.refused] == [wrong.id]


def test_an_unknown_modality_is_no_doubt(bank, engine):
    bank.add(case(1, modality=""))
    assert "the target" not in rank(bank, target(), engine)[0].reason


def test_a_poor_likeness_is_a_doubt(bank, engine):
    entry = bank.add(case(1))
    own = slice_descriptors(bank, entry, engine, 0)
    strange = next(
        one
        for one in (target(seed, array=noise(seed)) for seed in range(500))
        if (volume_descriptors(engine, one, 0) @ own.T).max() < LEAST
    )
    assert "looks little like the target" in rank(bank, strange, engine)[0].reason
    with pytest.raises(InputError, match="looks little like"):
        pick(bank, strange, engine, on_mismatch="refuse")


def noise(seed: int) -> np.ndarray:
    """Pictures of many kinds: gradients, stripes, blocks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((24, 26))
    plane = np.sin(rows * rng.uniform(0, 2) + rng.uniform(0, 6)) * np.cos(columns * rng.uniform(0, 2)) > rng.normal()
    return np.repeat((1000 * plane + rows * rng.normal(0, 30)).astype(np.int16)[None], 5, 0)


def test_two_and_three_dimensions_never_go_together(bank, engine):
    flat = bank.add(picture(1))
    with pytest.raises(InputError, match="is 2-D, the target 3-D"):
        pick(bank, target(), engine)
    solid = bank.add(case(2))
    assert pick(bank, target(), engine).chosen[0].entry.id == solid.id
    assert pick(bank, picture(3).image, engine).chosen[0].entry.id == flat.id


def test_grey_and_colour_are_a_doubt(bank, engine):
    colour, grey = bank.add(picture(1, colour=True)), bank.add(picture(2))
    assert pick(bank, picture(3).image, engine, count=2, on_mismatch="refuse").chosen[0].entry.id == grey.id
    ranked = rank(bank, picture(3, colour=True).image, engine)
    assert [one.entry.id for one in ranked] == [colour.id, grey.id] and "is grey, the target is not" in ranked[1].doubts


def test_the_target_itself_is_no_reference_unless_the_user_names_it(bank, engine):
    own = case(1)
    entry = bank.add(own)
    with pytest.raises(InputError, match="is the target itself"):
        pick(bank, own.image, engine)
    assert pick(bank, own.image, engine, ids=[entry.id]).chosen[0].entry.id == entry.id


def test_the_structures_wanted_decide(bank, engine):
    both, one = bank.add(case(1)), bank.add(case(2, ("liver", "tumour")))
    other = bank.add(case(3, ("kidney",)))
    ranked = rank(bank, target(), engine, SegmentSettings(structures=("Liver", "Spleen")))
    assert [r.entry.id for r in ranked] == [both.id, one.id, other.id]
    assert [r.share for r in ranked] == [1.0, 0.5, 0.0] and ranked[2].out
    assert pick(bank, target(), engine, SegmentSettings(prompt="find the kidney")).chosen[0].entry.id == other.id
    with pytest.raises(InputError, match="none of the structures wanted"):
        pick(bank, target(), engine, SegmentSettings(structures=("pancreas",)))


def test_of_several_references_one_that_adds_a_structure_goes_before_one_that_does_not(bank, engine):
    for seed in range(4):
        bank.add(case(seed, ("liver",)))
    kidney = bank.add(case(9, ("kidney",), modality="MR"))
    found = pick(bank, target(), engine, SegmentSettings(structures=("liver", "kidney")), count=2, tell=lambda _: None)
    assert kidney.id in [one.entry.id for one in found.chosen]


def test_the_body_part_is_held_against_when_both_are_known(bank, engine):
    bank.add(case(1), body_part="Head")
    assert "shows Head, not abdomen" in rank(bank, target(), engine, body_part="abdomen")[0].doubts
    assert not rank(bank, target(), engine, body_part="head")[0].doubts
    assert not rank(bank, target(), engine)[0].doubts


def test_the_user_names_entries_in_an_order_of_their_own_and_doubts_are_told(bank, engine):
    first, second = bank.add(case(1)), bank.add(case(2, modality="MR"))
    told: list[str] = []
    found = pick(bank, target(), engine, ids=[second.id[:8], first.id], on_mismatch="refuse", tell=told.append)
    assert [one.entry.id for one in found.chosen] == [second.id, first.id]
    assert all("named by the user" in one.reason for one in found.chosen)
    assert len(told) == 1 and "is MR" in told[0]
    with pytest.raises(InputError, match="no entry"):
        pick(bank, target(), engine, ids=["0" * 32])


def test_a_correction_follows_the_entry_that_it_corrects(bank, engine):
    one = case(1)
    bank.add(one)
    corrected = Reference(one.image, replace(one.labels, array=np.roll(one.labels.array, 1, 1)))
    entry = bank.accept(corrected, {"versions": {}})
    assert [found.entry.id for found in rank(bank, target(), engine)] == [entry.id]


def test_left_out_entries_are_not_there(bank, engine):
    one, other = bank.add(case(1)), bank.add(case(2))
    assert [found.entry.id for found in rank(bank, target(), engine, leave_out={one.id})] == [other.id]


def test_an_entry_whose_voxels_are_damaged_is_passed_over_and_told(bank, engine):
    entries = [bank.add(case(seed)) for seed in range(3)]
    best = rank(bank, target(), engine)[0].entry
    (bank.root / best.id / "image.nrrd").write_bytes(b"NRRD0004\n")
    told: list[str] = []
    found = pick(bank, target(), engine, count=3, tell=told.append)
    assert {one.entry.id for one in found.chosen} == {one.id for one in entries} - {best.id}
    assert len(found.references) == 2 and any(best.id[:8] in line and "passed over" in line for line in told)
    with pytest.raises(InputError, match="damaged"):
        pick(bank, target(), engine, ids=[best.id])


def test_an_empty_bank_is_one_line(bank, engine):
    with pytest.raises(InputError, match="No reference of the bank fits"):
        pick(bank, target(), engine)


def test_descriptors_are_made_once_and_kept(bank, engine):
    entry = bank.add(case(1))
    made = slice_descriptors(bank, entry, engine, 0)
    assert made.shape == (5, engine.encoder.model.config.hidden_size)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    (bank.root / entry.id / "image.nrrd").write_bytes(b"gone")  # nothing is left to make them of
    assert np.array_equal(slice_descriptors(Bank.open(bank.root), entry, engine, 0), made)
    assert rank(Bank.open(bank.root), target(), engine)[0].similarity is not None


def test_another_encoder_describes_anew(bank, engine, random_model, tmp_path):
    import torch

    from rau.references.encoder import build_encoder

    entry = bank.add(case(1))
    old = slice_descriptors(bank, entry, engine, 0)
    torch.manual_seed(5)
    manifest = store.open_model(random_model).manifest
    weights = {
        "segmenter.safetensors": store.open_model(random_model).tensors("segmenter.safetensors"),
        "encoder.safetensors": build_encoder(manifest.encoder.config).state_dict(),
    }
    store.write_model(tmp_path / "other", manifest.model_dump(exclude={"files"}), weights)
    other = load_engine(SegmentSettings(model=str(tmp_path / "other"), device="cpu"))
    assert encoder_key(other) != encoder_key(engine)
    new = slice_descriptors(bank, entry, other, 0)
    assert not np.allclose(new, old)
    assert np.allclose(new, volume_descriptors(other, case(1).image, 0))
    assert np.array_equal(slice_descriptors(bank, entry, engine, 0), old)


@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: data[:-5] + bytes(5), lambda data: b""])
def test_damaged_descriptors_are_made_again_and_verify_takes_them_away(bank, engine, spoil):
    entry = bank.add(case(1))
    made = slice_descriptors(bank, entry, engine, 0)
    rank(bank, target(), engine)
    paths = [*bank.root.glob("*/descriptors/*"), *bank.root.glob(".cache/*")]
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(spoil(path.read_bytes()))
    found = bank.verify()
    assert found.clean and len(found.cleaned) == 1 and not paths[0].exists()
    assert rank(bank, target(), engine)[0].similarity is not None
    assert np.array_equal(slice_descriptors(bank, entry, engine, 0), made)


def test_a_removed_entry_is_no_longer_found_and_a_new_one_is(bank, engine):
    one = bank.add(case(1))
    rank(bank, target(), engine)
    bank.remove(one.id)
    other = bank.add(case(2))
    assert [found.entry.id for found in rank(Bank.open(bank.root), target(), engine)] == [other.id]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs permissions that bind")
def test_a_bank_that_is_read_only_is_searched(bank, engine):
    entry = bank.add(case(1))
    for path in (bank.root / entry.id, bank.root):
        path.chmod(0o555)
    try:
        assert pick(bank, target(), engine).chosen[0].entry.id == entry.id
    finally:
        for path in (bank.root, bank.root / entry.id):
            path.chmod(0o755)


def test_without_an_encoder_the_latest_that_fits_is_taken(bank, engine):
    bank.add(case(1))
    late = bank.add(case(2))
    bank.add(case(3, modality="MR"))
    found = pick(bank, target(), replace(engine, encoder=None))
    assert found.chosen[0].entry.id == late.id and found.chosen[0].similarity is None


def test_the_mean_of_nothing_alike_is_no_division_by_zero():
    assert np.array_equal(mean_of(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32)), [0, 0])


def test_rau_segment_takes_its_reference_from_the_bank_and_the_report_says_which_and_why(
    tmp_path, random_model, capsys
):
    from rau.demo import write_image

    reference, (image, _) = patient_pair(2, (6, 40, 40))
    bank = Bank.create(tmp_path / "bank")
    entry, other = bank.add(reference, title="a title"), bank.add(case(1, modality=image.modality))
    write_image(image, tmp_path / "target.nii.gz")
    call = ["segment", "--bank", str(bank.root), "--target", str(tmp_path / "target.nii.gz"), "--adaptation", "off"]
    call += ["--output", str(tmp_path / "out.nrrd"), "--report", str(tmp_path / "out.json"), "--device", "cpu"]
    call += ["--model", str(random_model), "--threads", "1"]
    assert main([*call, "--bank-ids", entry.id[:8]]) == 0
    assert "from the bank: a title" in capsys.readouterr().err
    (used,) = json.loads((tmp_path / "out.json").read_text())["provenance"]["bank"]["used"]
    assert used["id"] == entry.id and "named by the user" in used["reason"]
    assert b"a title" not in (tmp_path / "out.nrrd").read_bytes()
    assert main([*call, "--bank-references", "2"]) == 0
    used = json.loads((tmp_path / "out.json").read_text())["provenance"]["bank"]["used"]
    assert {one["id"] for one in used} == {entry.id, other.id}
    assert main([*call, "--bank-mismatch", "perhaps"]) == 2


def test_the_call_the_commands_and_the_worker_take_as_many_references_unless_told(bank, engine):
    import inspect

    from rau import cli
    from rau.commands.segment import FromBank
    from rau.worker.protocol import SegmentJob

    for seed in range(BANK_REFERENCES + 1):
        bank.add(case(seed))
    assert len(pick(bank, target(), engine).references) == BANK_REFERENCES
    asked = [inspect.signature(one).parameters["bank_references"].default for one in (cli.segment, cli.batch)]
    asked += [FromBank(bank.root).count, SegmentJob.model_fields["bank_count"].default]
    assert asked == [BANK_REFERENCES] * 4


def test_what_is_judged_once_a_kind_is_what_is_judged_entry_by_entry(bank, engine):
    names = (("liver", "spleen"), ("kidney",), ("Liver", "tumour"))
    for number in range(9):
        one = case(number, names[number % 3], modality=("CT", "MR", "")[number // 3])
        bank.add(one, body_part=("head", "", "Abdomen")[number % 3])
    bank.add(picture(20)), bank.add(picture(21, colour=True))
    own = case(1, names[1])
    wanted = SegmentSettings(structures=("liver", "spleen"))
    ranked = rank(bank, own.image, engine, wanted, body_part="abdomen", most=20)
    assert len(ranked) == 11 and sum(one.out for one in ranked) > 3
    for found in ranked:
        alone = judged(found.entry, own.image, wanted, "abdomen", image_hash(own.image.array, own.image.geometry))
        assert (found.shows, found.share, found.out) == (alone.shows, alone.share, alone.out)
        assert found.doubts[: len(alone.doubts)] == alone.doubts
        assert all(one.startswith("looks little") for one in found.doubts[len(alone.doubts) :])


def test_a_second_query_opens_no_file_but_those_of_the_entries_it_looks_at_closely(bank, engine, monkeypatch):
    for seed in range(6):
        bank.add(case(seed))
    rank(bank, target(), engine)
    os.utime(bank.root, (1e9, 1e9))  # the folder changed long ago
    first = rank(bank, target(), engine, most=2)
    read: list[str] = []
    plain = descriptors.plain_file
    monkeypatch.setattr(descriptors, "plain_file", lambda path: read.append(str(path)) or plain(path))
    monkeypatch.setattr(Bank, "_folders", lambda _: pytest.fail("the bank was listed again"))
    assert [one.entry.id for one in rank(bank, target(), engine, most=2)] == [one.entry.id for one in first]
    assert len(read) == 2 and all(any(one.entry.id in path for one in first) for path in read)


def test_what_another_process_adds_and_removes_is_seen_by_a_bank_that_is_open(bank, engine):
    one = bank.add(case(1))
    os.utime(bank.root, (1e9, 1e9))
    assert bank.entries() is bank.entries()
    other = Bank.open(bank.root)
    two = other.add(case(2))
    assert {found.entry.id for found in rank(bank, target(), engine)} == {one.id, two.id}
    os.utime(bank.root, (1e9, 1e9))
    assert len(bank.entries()) == 2
    other.remove(one.id)
    assert [found.entry.id for found in rank(bank, target(), engine)] == [two.id]


@given(st.lists(st.tuples(st.sampled_from(["CT", "MR", ""]), st.booleans()), max_size=8))
@settings(max_examples=60, deadline=None)
def test_an_untold_target_is_what_the_three_most_alike_agree_on(told):
    made = [
        Candidate(SimpleNamespace(modality=kind), similarity=0.9 - 0.01 * k if seen else None)
        for k, (kind, seen) in enumerate(told)
    ]
    known = [kind for kind, seen in told if kind and seen][:NEAREST]
    guess = modality_by_looks(made)
    assert guess == (known[0] if len(known) == NEAREST and len(set(known)) == 1 else "")
    ranked = doubted_by_looks(made)
    assert len(ranked) == len(made)
    for one in ranked:
        assert bool(one.doubts) == bool(guess and one.entry.modality and one.entry.modality != guess)
    assert [bool(one.doubts) for one in ranked] == sorted(bool(one.doubts) for one in ranked)


def test_an_untold_target_doubts_entries_of_another_modality_than_those_most_alike(bank, engine):
    like = case(1, modality="MR")
    for brighter in range(1, 8):
        bank.add(Reference(like.image.with_array((like.image.array + brighter).astype(np.int16)), like.labels))
    others = [bank.add(case(seed)).id for seed in range(5, 8)]
    untold = replace(like.image, modality="")
    ranked = rank(bank, untold, engine)
    assert {one.entry.modality for one in ranked[:7]} == {"MR"} and not any(one.doubts for one in ranked[:7])
    doubted = {one.entry.id for one in ranked[7:] if "is CT, the target looks like MR" in one.doubts}
    assert doubted == set(others)
    told = rank(bank, replace(like.image, modality="CT"), engine)
    assert not any("the target looks like" in one.reason for one in told)
