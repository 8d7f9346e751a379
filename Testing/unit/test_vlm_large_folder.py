"""Folders of the large reasoner: what training leaves (adapters), what is read, fetched and refused."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from large_side import reading_of, settings_of, wake, write_base  # noqa: E402

from rau.errors import InputError, ModelError  # noqa: E402
from rau.vlm import large_folder  # noqa: E402
from rau.vlm.large import LargeSettings, load_large  # noqa: E402
from rau.vlm.large_adapter import ADAPTER, HEADS, RECORD, load_adapter, read_record, save_adapter  # noqa: E402


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """An untied base with more rows than tokens, as the 7B; never to be changed."""
    return write_base(tmp_path_factory.mktemp("hub") / "qwen")


@pytest.fixture(scope="module")
def loaded(base):
    """Never to be trained."""
    return load_large(settings_of(base))


@pytest.fixture
def spoilt(base, tmp_path):
    return shutil.copytree(base, tmp_path / "qwen")


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_gives_back_the_same_states(base, tmp_path, tied):
    folder = write_base(tmp_path / "tied", tied=True) if tied else base
    loaded = replace(load_large(settings_of(folder, rank=4, cells=3)), routes=tied)
    fresh = reading_of(loaded).hidden
    wake(loaded)
    save_adapter(tmp_path / "adapter", loaded, {"steps": 2})
    save_adapter(tmp_path / "adapter", loaded, {"steps": 2})
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == sorted([ADAPTER, HEADS, RECORD])
    assert not list(tmp_path.glob(".*"))
    assert str(tmp_path) not in (tmp_path / "adapter" / RECORD).read_text()
    again = load_adapter(tmp_path / "adapter", settings_of(folder, seed=9))
    assert (again.settings.rank, again.reasoner.heads.config.cells, again.routes) == (4, 3, tied)
    want, got = reading_of(loaded), reading_of(again)
    assert torch.equal(want.hidden, got.hidden) and not torch.equal(want.hidden, fresh)
    assert torch.equal(loaded.reasoner.logits(want.hidden), again.reasoner.logits(got.hidden))
    heads = again.reasoner.heads.state_dict()
    assert all(torch.equal(value, heads[name]) for name, value in loaded.reasoner.heads.state_dict().items())


def test_an_adapter_holds_nothing_of_the_base(loaded, tmp_path):
    from safetensors.torch import load_file

    save_adapter(tmp_path / "adapter", loaded)
    tensors = load_file(tmp_path / "adapter" / ADAPTER)
    assert len(tensors) == 2 * 4 * 2 + 2
    assert max(value.numel() for value in tensors.values()) < 8 * 100
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in tensors)
    assert read_record(tmp_path / "adapter").tokens == loaded.tokens


def test_an_adapter_of_another_base_or_a_changed_one_is_refused(loaded, spoilt, tmp_path):
    save_adapter(tmp_path / "adapter", loaded)
    with (spoilt / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match="made for another base"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))
    path = tmp_path / "adapter" / HEADS
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ModelError, match=r"heads\.safetensors .* damaged or was changed"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))
    (tmp_path / "adapter" / RECORD).write_text('{"format": 2}')
    with pytest.raises(ModelError, match="not valid at"):
        load_adapter(tmp_path / "adapter", settings_of(spoilt))


def test_a_table_with_too_few_rows_grows(tmp_path):
    loaded = load_large(settings_of(write_base(tmp_path / "small", spare=2)))
    assert len(loaded.reasoner.base.lm_head.original_module.weight) == max(loaded.tokens.values()) + 1
    wake(loaded)
    save_adapter(tmp_path / "adapter", loaded)
    again = load_adapter(tmp_path / "adapter", settings_of(tmp_path / "small"))
    assert torch.equal(reading_of(loaded).hidden, reading_of(again).hidden)


@pytest.fixture
def no_network(monkeypatch):
    """Any socket is an error, and is counted."""
    opened = []

    def refuse(*where, **_):
        opened.append(where)
        raise OSError("no network in this test")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    return opened


def test_nothing_is_fetched_unasked(no_network, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="is not on this computer") as caught:
        load_large(LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct", "0" * 40, device="cpu"))
    assert no_network == [] and "\n" not in str(caught.value)


def test_what_is_asked_of_the_hub(monkeypatch, spoilt):
    """A pinned commit, no pickles, no code; from its cache unless a download is allowed."""
    import huggingface_hub

    asked = []

    def stub(source, **more):
        asked.append((source, more))
        return str(spoilt)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", stub)
    for allowed in (False, True):
        assert large_folder.find_base("some/model", "a" * 40, allowed) == spoilt
    assert [more["local_files_only"] for _, more in asked] == [True, False]
    assert {(source, more["revision"]) for source, more in asked} == {("some/model", "a" * 40)}
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked[1][1]["allow_patterns"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelError, match="could not be downloaded"):
        large_folder.find_base("some/model", "a" * 40, True)


def test_a_local_folder_opens_no_connection(no_network, base):
    load_large(settings_of(base))
    assert no_network == []


def test_a_hub_id_needs_a_pinned_commit():
    with pytest.raises(ModelError, match="needs a revision"):
        load_large(LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct"))
    with pytest.raises(InputError, match="not a commit"):
        LargeSettings("Qwen/Qwen2.5-VL-7B-Instruct", "main")
    with pytest.raises(ModelError, match="no model folder 'nowhere'"):
        load_large(LargeSettings("./no/such/nowhere"))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def pickles_alone(folder):
    for path in [*folder.glob("*.safetensors"), folder / large_folder.INDEX]:
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


SPOILS = {
    "pickles, which are never read": pickles_alone,
    "lacks model-00002-of-00002": lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
    "lacks tokenizer.json": lambda folder: (folder / "tokenizer.json").unlink(),
    "lacks config.json": lambda folder: (folder / "config.json").unlink(),
    "lacks preprocessor_config.json": lambda folder: (folder / "preprocessor_config.json").unlink(),
    "config.json of qwen cannot be read": lambda folder: (folder / "config.json").write_text("{"),
    "is not a Qwen2.5-VL": lambda folder: edit(folder / "config.json", lambda c: c.update(model_type="qwen2_vl")),
    "quantised already": lambda folder: edit(folder / "config.json", lambda c: c.update(quantization_config={})),
    "holds an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "names files that are not allowed": lambda folder: edit(
        folder / large_folder.INDEX, lambda c: c["weight_map"].update(more="../elsewhere.safetensors")
    ),
    "do not fit its config.json": lambda folder: edit(folder / "config.json", lambda c: c.update(num_hidden_layers=3)),
    "tokenizer in qwen is of another": lambda folder: edit(
        folder / "config.json", lambda c: c.update(image_token_id=7)
    ),
    "The VLM in qwen cannot be read": lambda folder: (folder / "model-00001-of-00002.safetensors").write_bytes(b"no"),
    "processor in qwen cannot be used": lambda folder: (folder / "chat_template.json").unlink(),
}


@pytest.mark.parametrize("told", SPOILS)
def test_a_spoilt_folder_is_named_in_one_line(told, spoilt):
    SPOILS[told](spoilt)
    with pytest.raises(ModelError, match=told) as caught:
        load_large(settings_of(spoilt))
    assert "\n" not in str(caught.value) and caught.value.hint and str(spoilt.parent) not in str(caught.value)
