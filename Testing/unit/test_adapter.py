"""The adapter of a site: the base stays as it is, what does not fit is refused, what does not help is not written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch

from rau.adaptation.site import UP, Adapter, AdapterRecord, adapted, base_of, read_adapter, with_adapter, write_adapter
from rau.bank.bank import Bank
from rau.cli import main
from rau.errors import InputError, ModelError, NotHelpfulError
from rau.models.engine import load_engine
from rau.models.store import sha256
from rau.pipeline import segment
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.training import adapter as training
from rau.training.adapter import AdapterTraining, helps, train
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

STRUCTURES = (Structure(2, "ball"), Structure(5, "box"))


def case(seed: int, shape=(2, 24, 20), structures=STRUCTURES) -> Reference:
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    row, column = rng.integers(2, 6, 2)
    labels[:, row : row + 7, column : column + 6] = structures[0].value
    labels[:, row + 9 : row + 15, column + 5 : column + 12] = structures[-1].value
    image = np.clip(rng.normal(80, 5, shape) + 25 * labels, 0, 255).astype(np.uint8)
    grid = Geometry(shape, (4.0, 1.0, 1.0))
    return Reference(Volume(image, grid, "MR"), LabelMap(labels, grid, structures))


@pytest.fixture(scope="module")
def plain(random_model) -> SegmentSettings:
    return SegmentSettings(model=str(random_model), device="cpu", registration="off", adaptation="off", quality="off")


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    made = Bank.create(tmp_path_factory.mktemp("bank") / "bank")
    made.add(case(100))
    for seed in range(3):
        made.accept(case(seed), {"versions": {}})
    return made


def how_to(bank: Bank, model, output) -> AdapterTraining:
    where = {"bank": str(bank.root), "output": str(output), "model": str(model)}
    return AdapterTraining(**where, device="cpu", steps=3, folds=2, rank=2)


@pytest.fixture
def how(bank, random_model, tmp_path) -> AdapterTraining:
    return how_to(bank, random_model, tmp_path / "site.safetensors")


@pytest.fixture(scope="module")
def whatever():
    """What is trained is written, whether it helps or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "GAIN", -1.0)
        patch.setattr(training, "LOSS", 2.0)
        yield


@pytest.fixture(scope="module")
def trained(bank, random_model, tmp_path_factory, whatever):
    """A whole training: how, what it told, and the files of the model before."""
    settings = how_to(bank, random_model, tmp_path_factory.mktemp("adapter") / "site.safetensors")
    before = files_of(random_model)
    return settings, list(train(settings)), before


def made(engine, up: float = 0.0, base: str = "", seed: int = 0) -> Adapter:
    """An adapter of rank 2 whose changes are of about that size."""
    from rau.adaptation.site import DOWN, projections

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, one in projections(engine.segmenter.model).items():
        rows, columns = one.weight.shape
        tensors[DOWN + name] = torch.randn(2, columns, generator=generator)
        tensors[UP + name] = up * torch.randn(rows, 2, generator=generator)
    record = AdapterRecord(base=base or base_of(engine.folder), model="random", rank=2, alpha=4)
    return Adapter(record.sealed(tensors), tensors)


def files_of(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_trained_is_written_small_and_used_and_the_base_is_never_touched(trained, plain, random_model):
    how, rows, before = trained
    assert [row.get("left_out") for row in rows] == [1, 2, None] and rows[-1]["cases"] == 3
    file = training.Path(how.output)
    assert file.stat().st_size < 1_000_000 and not list(file.parent.glob(".*"))
    record = read_adapter(file).record
    assert (
        record.trained["cases"] == 3 and record.trained["steps"] == 3 and record.base == before["segmenter.safetensors"]
    )
    engine = load_engine(plain)
    kept = {name: one.clone() for name, one in engine.segmenter.model.state_dict().items()}
    reference, target = case(1), case(7).image
    first = segment([reference], target, plain, engine=engine)
    with_it = segment([reference], target, plain.model_copy(update={"adapter": how.output}), engine=engine)
    again = segment([reference], target, plain, engine=engine)
    assert np.array_equal(first.labels.array, again.labels.array)
    assert [one.score for one in first.structures] == [one.score for one in again.structures]
    assert [one.score for one in first.structures] != [one.score for one in with_it.structures], "it changes nothing"
    told = with_it.provenance
    assert told["versions"]["adapter"]["sha256"] == record.content and told["settings"]["adapter"] == file.name
    assert "adapter" not in first.provenance["versions"] and first.provenance["settings"]["adapter"] == ""
    assert all(torch.equal(kept[name], one) for name, one in engine.segmenter.model.state_dict().items())
    assert files_of(random_model) == before


def test_a_training_that_is_stopped_anywhere_goes_on_to_the_same_adapter(trained, monkeypatch, tmp_path):
    how = trained[0]
    whole = read_adapter(training.Path(how.output))
    other = replace(how, output=str(tmp_path / "other.safetensors"), minutes=5)
    plain_check, left = training.Clock.check, [0]

    def check(self):
        left[0] -= 1
        if left[0] < 0:
            raise training.OutOfTime

    monkeypatch.setattr(training.Clock, "check", check)
    stops = 0
    for after in (8, 10, 9, 30):  # checks until the time of the call is spent
        left[0] = after
        try:
            list(train(other))
        except InputError as problem:
            assert "minutes are spent" in str(problem) and "Call again" in str(problem)
            assert not (tmp_path / "other.safetensors").exists()
            stops += 1
    monkeypatch.setattr(training.Clock, "check", plain_check)
    if not (tmp_path / "other.safetensors").exists():
        list(train(other))
    found = read_adapter(tmp_path / "other.safetensors")
    assert stops >= 2 and found.record == whole.record
    assert all(torch.equal(one, found.tensors[name]) for name, one in whole.tensors.items())


def test_what_does_not_help_is_not_written_and_says_so(how, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "GAIN", 0.002)
    with pytest.raises(NotHelpfulError, match="nothing was written") as caught:
        list(train(replace(how, rate=30.0, steps=2)))  # far too fast
    assert "\n" not in str(caught.value) and caught.value.exit_code == 3
    assert not list(tmp_path.iterdir())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_the_gate_lets_pass_what_gains_on_the_whole_and_spoils_no_case(scores):
    gains = [after - before for before, after in scores]
    assert helps(scores) == (np.mean(gains) >= training.GAIN and min(gains) >= -training.LOSS)
    assert not helps([])


def test_too_few_accepted_cases_and_cases_that_have_nothing_in_common_are_told(how, tmp_path):
    few = Bank.create(tmp_path / "few")
    few.add(case(50))
    few.accept(case(1), {"versions": {}})
    with pytest.raises(InputError, match="has 1 accepted cases; an adapter needs 3"):
        list(train(replace(how, bank=str(few.root))))
    for seed in (2, 3):
        few.accept(case(seed, structures=(Structure(2, f"a{seed}"), Structure(5, f"b{seed}"))), {"versions": {}})
    with pytest.raises(InputError, match="no structure in common"):
        list(train(replace(how, bank=str(few.root))))
    with pytest.raises(InputError, match="rank 1 to 64"):
        list(train(replace(how, rank=0)))


def test_an_adapter_that_changes_nothing_gives_the_same_voxels(plain):
    engine = load_engine(plain)
    reference, target = case(1), case(7).image
    first = segment([reference], target, plain, engine=engine)
    same = segment([reference], target, plain, engine=with_adapter(engine, made(engine)))
    assert np.array_equal(first.labels.array, same.labels.array)
    other = segment([reference], target, plain, engine=with_adapter(engine, made(engine, 0.3)))
    assert [one.score for one in first.structures] != [one.score for one in other.structures]


def test_another_base_a_wrong_shape_and_numbers_that_are_none_are_refused(plain, tmp_path):
    engine = load_engine(plain)
    write_adapter(tmp_path / "a.safetensors", made(engine, base="0" * 64))
    with pytest.raises(ModelError, match="was trained for other weights than those of random 0") as caught:
        adapted(engine, tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)
    good = made(engine, 0.1)
    name = next(key for key in good.tensors if key.startswith(UP))
    for changed in (good.tensors[name][:-1], good.tensors[name] * float("nan"), None):
        tensors = {**good.tensors, name: changed}
        if changed is None:
            del tensors[name]
        write_adapter(tmp_path / "a.safetensors", Adapter(good.record.sealed(tensors), tensors))
        with pytest.raises(ModelError, match="does not fit"):
            adapted(engine, tmp_path / "a.safetensors")


def test_a_damaged_file_and_one_that_is_something_else_are_one_line(plain, tmp_path):
    engine = load_engine(plain)
    file = tmp_path / "a.safetensors"
    write_adapter(file, made(engine, 0.1))
    whole = file.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 25).astype(int):
        spoilt = bytearray(whole)
        spoilt[place] ^= 0x10
        file.write_bytes(bytes(spoilt))
        with pytest.raises(ModelError) as caught:
            read_adapter(file)
        assert "\n" not in str(caught.value)
    for content in (b"", b"not an adapter", whole[:1000]):
        file.write_bytes(content)
        with pytest.raises(ModelError):
            read_adapter(file)
    with pytest.raises(ModelError, match="cannot be read"):
        read_adapter(tmp_path / "missing.safetensors")
    with pytest.raises(ModelError, match="no adapter"):
        read_adapter(engine.folder.path / "encoder.safetensors")


def test_the_command_line_refuses_a_missing_adapter_with_the_exit_status_of_a_missing_model(
    random_model, tmp_path, capsys
):
    from builders import write_image
    from rau.export.writing import write_labels

    reference = case(1)
    write_image(reference.image, tmp_path / "a.nii.gz"), write_labels(reference.labels, tmp_path / "s.nii.gz")
    given_ = ["--reference", "a.nii.gz", "--labels", "s.nii.gz", "--target", "a.nii.gz", "--output", "o.nii.gz"]
    call = ["segment", *(str(tmp_path / one) if "." in one else one for one in given_), "--model", str(random_model)]
    assert main([*call, "--adapter", str(tmp_path / "none.safetensors")]) == 4
    assert "The adapter none.safetensors cannot be read" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "o.nii.gz").exists()
