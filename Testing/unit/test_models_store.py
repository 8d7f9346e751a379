"""Model folders: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from rau.errors import InputError, ModelError  # noqa: E402
from rau.models import store  # noqa: E402
from rau.models.engine import load_engine  # noqa: E402
from rau.sam.build import build_sam2  # noqa: E402
from rau.settings import SegmentSettings  # noqa: E402


@pytest.fixture
def made(random_model):
    """A model folder of the mini architecture with random weights; never to be changed."""
    return random_model


@pytest.fixture
def folder(made, tmp_path):
    """A copy to spoil."""
    import shutil

    return shutil.copytree(made, tmp_path / "random")


def change(folder, edit):
    manifest = json.loads((folder / "model.json").read_text())
    edit(manifest)
    (folder / "model.json").write_text(json.dumps(manifest))


def test_a_written_model_loads_and_nothing_temporary_is_left(made):
    engine = load_engine(SegmentSettings(model=str(made), device="cpu"))
    assert engine.name == "random" and engine.segmenter.size == 64 and engine.encoder is not None
    assert sorted(p.name for p in made.iterdir()) == ["encoder.safetensors", "model.json", "segmenter.safetensors"]


def test_weights_are_kept_in_half_precision_and_read_as_single(made):
    from safetensors.torch import load_file

    assert load_file(made / "segmenter.safetensors")["no_mem_embed"].dtype == torch.float16
    assert store.open_model(made).tensors("segmenter.safetensors")["no_mem_embed"].dtype == torch.float32


def test_one_changed_byte_is_refused(folder):
    path = folder / "segmenter.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="damaged or was changed"):
        store.open_model(folder)


def test_a_missing_file_is_named(folder):
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks encoder.safetensors"):
        store.open_model(folder)


@pytest.mark.parametrize("name", ["../segmenter.safetensors", "/etc/passwd", "segmenter.pt", "model.pkl"])
def test_files_outside_the_folder_and_pickles_are_never_opened(folder, name):
    change(folder, lambda m: (m["segmenter"].update(file=name), m["files"].update({name: "0"})))
    with pytest.raises(ModelError, match="not allowed"):
        store.open_model(folder)


def test_a_file_without_checksum_is_refused(folder):
    change(folder, lambda m: m["files"].pop("segmenter.safetensors"))
    with pytest.raises(ModelError, match="no checksum"):
        store.open_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"name": 1}', '{"format": 9}'])
def test_a_malformed_manifest_is_one_line(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(ModelError) as caught:
        store.open_model(folder)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_refused(folder):
    change(folder, lambda m: m.update(hook="os.system"))
    with pytest.raises(ModelError, match="not valid at hook"):
        store.open_model(folder)


def test_weights_that_do_not_fit_are_a_model_error(folder):
    change(folder, lambda m: m["segmenter"]["overrides"].update({"memory_attention.num_layers": 1}))
    with pytest.raises(ModelError, match="do not fit"):
        load_engine(SegmentSettings(model=str(folder), device="cpu"))


def test_an_unknown_model_says_what_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("RAU_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="No model 'nothing'"):
        store.find_model("nothing")
    with pytest.raises(ModelError, match="rau-7b is not on this computer"):
        store.find_model("rau-7b")


def test_the_users_models_are_found_by_name(monkeypatch, made):
    monkeypatch.setenv("RAU_MODELS", str(made.parent))
    assert store.find_model("random") == made


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_input_error(made):
    with pytest.raises(InputError, match="No CUDA device"):
        load_engine(SegmentSettings(model=str(made), device="cuda"))


def test_full_size_sam2_loads_by_the_same_path(tmp_path):
    """The classes and tensor names of the released weights, on the smallest of the released configurations."""
    torch.manual_seed(0)
    model = build_sam2("sam2.1_hiera_t", {"image_size": 256})
    manifest = {
        "name": "tiny",
        "version": "0",
        "licence": "Apache-2.0",
        "segmenter": {"config": "sam2.1_hiera_t", "image_size": 256},
    }
    store.write_model(tmp_path / "tiny", manifest, {"segmenter.safetensors": model.state_dict()}, half=False)
    engine = load_engine(SegmentSettings(model=str(tmp_path / "tiny"), device="cpu"))
    assert engine.encoder is None and engine.segmenter.size == 256
    loaded = engine.segmenter.model.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())
