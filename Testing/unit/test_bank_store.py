"""The bank as a folder: what goes in comes back exactly; what is damaged is told and passed over; nothing leads out."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import phantom, rotation
from rau.bank.bank import Bank
from rau.bank.entry import Entry
from rau.errors import InputError
from rau.references.reference import Reference
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")


@pytest.fixture
def bank(tmp_path):
    return Bank.create(tmp_path / "bank")


def tiny(seed: int = 0, **changes) -> Reference:
    """A reference of 3 x 8 x 9 voxels."""
    rng = np.random.default_rng(seed)
    grid = Geometry((3, 8, 9), (2.5, 0.7, 0.7), (1.0, -2.0, 3.5))
    labels = np.zeros(grid.shape, np.uint8)
    labels[1, 2:6, 3:7] = 1
    image = Volume(rng.integers(-900, 900, grid.shape).astype(np.int16), grid, "CT", "secret file name")
    return Reference(replace(image, **changes), LabelMap(labels, grid, (Structure(1, f"organ {seed}"),)))


def same(one: Reference, other: Reference) -> None:
    for a, b in ((one.image.array, other.image.array), (one.labels.array, other.labels.array)):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    for field in ("shape", "spacing", "origin"):
        assert getattr(one.image.geometry, field) == getattr(other.image.geometry, field)
    assert np.array_equal(one.image.geometry.direction, other.image.geometry.direction)
    assert one.image.modality == other.image.modality and one.image.spacing_known == other.image.spacing_known
    assert one.structures == other.structures


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    kind=st.sampled_from(TYPES),
    colour=st.booleans(),
    seed=st.integers(0, 10**6),
    spacing=st.tuples(*[st.floats(0.01, 20)] * 3),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), min_size=1, max_size=3),
    known=st.booleans(),
)
def test_a_reference_comes_back_exactly_whatever_its_type_grid_and_names(
    tmp_path, shape, kind, colour, seed, spacing, names, known
):
    rng = np.random.default_rng(seed)
    grid = Geometry(shape, spacing, tuple(rng.normal(size=3) * 100), rotation(seed))
    array = rng.integers(0, 100, (*shape, 3) if colour else shape)
    image = Volume(array.astype("uint8" if colour else kind), grid, "MR", "x", known)
    values = rng.choice(np.arange(1, 60000), len(names), replace=False)
    structures = tuple(
        Structure(int(value), name, tuple(rng.random(3).tolist()), f"a~b|{name}") for value, name in zip(values, names)
    )
    labels = rng.choice(np.array([0, *values]), shape).astype(rng.choice(["uint16", "int32", "int64"]))
    reference = Reference(image, LabelMap(labels, grid, structures))
    bank = Bank.create(tempfile.mkdtemp(dir=tmp_path))
    entry = bank.add(reference)
    same(Bank.open(bank.root).reference(entry.id), reference)


def test_what_is_told_of_an_entry_comes_back(bank):
    entry = bank.add(tiny(), title="Case 3", body_part="abdomen", note="broad consent, form 7", added_by="A. Reader")
    found = Bank.open(bank.root).show(entry.id)
    assert found == entry
    told = (found.title, found.body_part, found.consent, found.added_by, found.modality, found.names)
    assert told == ("Case 3", "abdomen", "broad consent, form 7", "A. Reader", "CT", ("organ 0",))
    assert found.provenance.how == "added" and found.provenance.run == {} and not found.flat


def test_the_thumbnail_shows_the_labelled_slice_with_its_structure(bank):
    from PIL import Image

    volume, labels = phantom()
    picture = Image.open(bank.thumbnail(bank.add(Reference(volume, labels)).id))
    pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    outline = np.rint(np.array(labels.structures[0].color) * 255)
    assert max(picture.size) == 192 and not picture.info
    assert np.any(np.all(np.abs(pixels - outline) < 2, axis=1))


def test_the_same_content_twice_is_told_and_kept_once(bank):
    told: list[str] = []
    one = bank.add(tiny(), title="first", tell=told.append)
    again = Bank.open(bank.root).add(tiny(), title="second", tell=told.append)
    assert again == one and len(bank.entries()) == 1
    assert told == [f"This reference is in the bank already, as first ({one.id[:8]})"]


def test_other_labels_on_the_same_image_are_another_reference_of_the_same_image(bank):
    one = tiny()
    corrected = Reference(one.image, replace(one.labels, array=np.roll(one.labels.array, 1, 2)))
    first, second = bank.add(one), bank.add(corrected)
    assert first.id != second.id and first.image == second.image and first.content != second.content


def test_a_removed_entry_is_gone_with_all_its_files(bank):
    kept, gone = bank.add(tiny(1)), bank.add(tiny(2))
    assert bank.remove(gone.id[:12]) == gone.id
    assert [one.id for one in bank.entries()] == [kept.id]
    assert sorted(one.name for one in bank.root.iterdir()) == sorted([".lock", "bank.json", kept.id])
    with pytest.raises(InputError, match="no entry"):
        bank.reference(gone.id)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / "entry.json").write_text("{}"), "not valid"),
        (lambda folder: (folder / "entry.json").write_bytes(b"\xff\x00"), "not valid"),
        (lambda folder: (folder / "entry.json").unlink(), "missing"),
        (lambda folder: (folder / "image.nrrd").unlink(), "missing"),
        (lambda folder: edited(folder, title="another"), "changed"),
        (lambda folder: edited(folder, id="0" * 32), "another entry"),
        (lambda folder: edited(folder, format=2), "format"),
    ],
)
def test_a_damaged_entry_is_passed_over_and_told(bank, spoil, told):
    whole, broken = bank.add(tiny(1)), bank.add(tiny(2))
    spoil(bank.root / broken.id)
    said: list[str] = []
    assert [one.id for one in Bank.open(bank.root).entries(said.append)] == [whole.id]
    (line,) = said
    assert broken.id[:8] in line and told in line
    found = bank.verify()
    assert [name for name, _ in found.problems] == [broken.id] and [one.id for one in found.entries] == [whole.id]
    assert bank.remove(broken.id) == broken.id and bank.verify().clean


def edited(folder, **changes):
    told = json.loads((folder / "entry.json").read_text())
    (folder / "entry.json").write_text(json.dumps({**told, **changes}))


@pytest.mark.parametrize("name", ["image.nrrd", "labels.seg.nrrd"])
def test_one_changed_byte_is_never_used_and_verify_finds_it(bank, name):
    entry = bank.add(tiny())
    path = bank.root / entry.id / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=f"{name} was changed"):
        bank.reference(entry.id)
    assert bank.verify().problems == ((entry.id, f"{name} was changed or is damaged"),)


def test_a_file_that_the_bank_did_not_write_is_told_by_verify(bank):
    entry = bank.add(tiny())
    (bank.root / entry.id / "letter.txt").write_text("Dear Mrs Doe")
    ((name, problem),) = bank.verify().problems
    assert name == entry.id and "did not write" in problem and "letter" not in problem


@pytest.mark.parametrize("asked", ["../secret", "..", "/etc/passwd", "", "abc", "a" * 33, "0123\0", "zzzz", "0*00"])
@pytest.mark.parametrize("what", ["show", "reference", "remove", "thumbnail"])
def test_no_id_leads_out_of_the_bank(bank, asked, what):
    outside = bank.root.parent / "secret"
    shutil.copytree(bank.root / bank.add(tiny()).id, outside)
    with pytest.raises(InputError):
        getattr(bank, what)(asked)
    assert (outside / "entry.json").is_file()


def test_an_entry_that_is_a_link_is_refused_and_what_it_leads_to_stays(bank):
    entry = bank.add(tiny())
    outside = bank.root.parent / "outside"
    shutil.move(bank.root / entry.id, outside)
    (bank.root / entry.id).symlink_to(outside)
    with pytest.raises(InputError, match="link"):
        bank.reference(entry.id)
    assert Bank.open(bank.root).entries(lambda _: None) == () and not bank.verify().clean
    bank.remove(entry.id)
    assert (outside / "image.nrrd").is_file() and bank.verify().clean and not bank.verify().cleaned


@pytest.mark.parametrize("name", ["image.nrrd", "labels.seg.nrrd", "entry.json"])
def test_a_file_that_is_a_link_is_refused(bank, name):
    entry = bank.add(tiny())
    path = bank.root / entry.id / name
    outside = bank.root.parent / name
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(InputError, match="link"):
        bank.reference(entry.id)
    assert "link" in dict(bank.verify().problems)[entry.id]


def test_a_later_version_a_damaged_bank_and_no_bank_are_one_line(tmp_path):
    for text, word in (('{"format": 2}', "format 2"), ("[]", "damaged"), ("{", "damaged"), (None, "no reference bank")):
        folder = tmp_path / word.replace(" ", "")
        folder.mkdir(exist_ok=True)
        if text is not None:
            (folder / "bank.json").write_text(text)
        with pytest.raises(InputError, match=word) as caught:
            Bank.open(folder)
        assert "\n" not in str(caught.value)


def test_a_folder_with_other_things_does_not_become_a_bank(tmp_path):
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        Bank.create(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.doc"]


def test_what_an_interrupted_process_left_is_not_seen_and_verify_takes_it_away(bank):
    entry = bank.add(tiny())
    for name in (f".part-{'0' * 32}", f".old-{'1' * 32}"):
        shutil.copytree(bank.root / entry.id, bank.root / name)
    (bank.root / f".{'2' * 16}.tmp.json").write_text("half")
    assert [one.id for one in Bank.open(bank.root).entries()] == [entry.id]
    found = bank.verify()
    assert found.clean and len(found.cleaned) == 3 and not bank.verify().cleaned
    assert sorted(one.name for one in bank.root.iterdir()) == sorted([".lock", "bank.json", entry.id])


def test_a_failed_write_leaves_nothing(bank, monkeypatch):
    import rau.bank.bank as module

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_files", full)
    with pytest.raises(InputError, match="cannot be written"):
        bank.add(tiny())
    assert sorted(one.name for one in bank.root.iterdir()) == [".lock", "bank.json"]


def test_what_cannot_be_kept_is_refused(bank):
    grid = Geometry((1, 2, 2))
    structures = (Structure(1, "a"),)
    labels = LabelMap(np.ones(grid.shape, np.uint8), grid, structures)
    for array in (np.ones(grid.shape, np.float16), np.ones(grid.shape, bool), np.ones(grid.shape, ">i2")):
        with pytest.raises(InputError, match="does not keep"):
            bank.add(Reference(Volume(array, grid), labels))
    with pytest.raises(InputError, match="title"):
        bank.add(tiny(), title="x" * 201)
    assert bank.entries() == ()


def test_an_accepted_case_keeps_settings_and_versions_of_its_run_and_neither_prompt_nor_path(bank):
    provenance = {
        "settings": {"model": "/home/doe/models/mine", "prompt": "the liver of Mrs Doe", "seed": 3},
        "versions": {"rau": "1.0"},
        "bank": {"used": ["ab"]},
        "patient": "Doe",
    }
    entry = bank.accept(tiny(), provenance, title="corrected")
    assert entry.provenance.how == "accepted"
    assert entry.provenance.run == {
        "settings": {"model": "mine", "seed": 3},
        "versions": {"rau": "1.0"},
        "bank": {"used": ["ab"]},
    }
    with pytest.raises(InputError, match="not the provenance"):
        bank.accept(tiny(1), {"what": "ever"})


def test_an_entry_without_its_seal_is_not_believed(bank):
    entry = bank.add(tiny())
    forged = entry.model_copy(update={"consent": "given"})
    (bank.root / entry.id / "entry.json").write_text(forged.model_dump_json())
    with pytest.raises(InputError, match="changed"):
        bank.show(entry.id)
    assert isinstance(forged, Entry)
