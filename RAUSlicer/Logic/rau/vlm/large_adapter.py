"""What training leaves of a large reasoner: LoRA, the rows of our tokens, heads; and which base they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rau.errors import ModelError
from rau.models.store import sha256, write_folder
from rau.vlm.large import LargeSettings, LoadedLarge, load_large
from rau.vlm.large_folder import base_digest, check_base, find_base, read_json

ADAPTER, HEADS, RECORD = "adapter.safetensors", "heads.safetensors", "reasoner.json"
AGAIN = "Get the adapter again"


class AdapterRecord(BaseModel):
    """`reasoner.json` of an adapter. base: SHA-256 of the base's `config.json`; revision: its commit, where known.

    tokens: id of each special token. heads, convention: fields of `HeadsConfig` and `Convention`. picture: pixels a
    side. files: SHA-256 of each weights file. trained: how the weights came to be. routes: as of `Loaded`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["adapter"] = "adapter"
    base: str
    revision: str = ""
    rank: int
    alpha: int
    dropout: float
    picture: int
    tokens: dict[str, int]
    heads: dict[str, int]
    convention: dict[str, Any]
    files: dict[str, str] = {}
    trained: dict[str, Any] = {}
    routes: bool = False


def read_record(folder: Path) -> AdapterRecord:
    """The record of an adapter folder whose files are whole. Raises ModelError: missing, malformed, tampered with."""
    try:
        record = AdapterRecord.model_validate(read_json(folder, RECORD))
    except ValidationError as problem:
        where = ".".join(str(part) for part in problem.errors()[0]["loc"]) or RECORD
        raise ModelError(f"{RECORD} of {folder.name} is not valid at {where}", AGAIN) from problem
    for file in (ADAPTER, HEADS):
        if not (folder / file).is_file():
            raise ModelError(f"The adapter {folder.name} lacks {file}", AGAIN)
        if sha256(folder / file) != record.files.get(file):
            raise ModelError(f"{file} of the adapter {folder.name} is damaged or was changed", AGAIN)
    return record


def adapter_tensors(vlm: Any) -> dict[str, Any]:
    """LoRA and rows by peft's names, float32 on the CPU; nothing of the base."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(vlm, save_embedding_layers=False)
    return {name: value.detach().float().cpu().contiguous().clone() for name, value in state.items()}


def save_adapter(folder: Path, loaded: LoadedLarge, trained: Mapping[str, Any] | None = None) -> None:
    """Write what trains, whole: LoRA and rows, heads, `reasoner.json`. trained: how the weights came to be."""
    write_folder(folder, partial(_write, loaded=loaded, trained=dict(trained or {})))


def _write(part: Path, loaded: LoadedLarge, trained: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    reasoner, settings = loaded.reasoner, loaded.settings
    heads = {k: v.detach().float().cpu().contiguous() for k, v in reasoner.heads.state_dict().items()}
    save_file(adapter_tensors(reasoner.vlm), part / ADAPTER)
    save_file(heads, part / HEADS)
    record = AdapterRecord(
        base=loaded.base,
        revision=settings.revision,
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        picture=loaded.picture,
        tokens=loaded.tokens,
        heads=asdict(reasoner.heads.config),
        convention=asdict(loaded.convention),
        files={file: sha256(part / file) for file in (ADAPTER, HEADS)},
        trained=trained,
        routes=loaded.routes,
    )
    (part / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_adapter(folder: Path, settings: LargeSettings) -> LoadedLarge:
    """The base of `settings` with what `save_adapter` wrote; sizes of LoRA, pictures and heads are the adapter's.

    Raises ModelError: damaged, or made for another base.
    """
    from peft import set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    record = read_record(folder)
    base = find_base(settings.source, settings.revision, settings.allow_download)
    check_base(base)
    if base_digest(base) != record.base:
        raise ModelError(f"The adapter {folder.name} was made for another base", "Give the base it was trained on")
    wanted = replace(
        settings,
        rank=record.rank,
        alpha=record.alpha,
        dropout=record.dropout,
        picture=record.picture,
        cells=record.heads.get("cells", 0),
    )
    loaded = load_large(wanted)
    reasoner = loaded.reasoner
    same = record.heads == asdict(reasoner.heads.config) and record.convention == asdict(loaded.convention)
    if not same or record.tokens != loaded.tokens:
        raise ModelError(f"The adapter {folder.name} does not fit its base", "Give the base it was trained on")
    try:
        tensors = load_file(folder / ADAPTER)
        if {k: v.shape for k, v in tensors.items()} != {k: v.shape for k, v in adapter_tensors(reasoner.vlm).items()}:
            raise ValueError("other tensors than those of this adapter")
        set_peft_model_state_dict(reasoner.vlm, tensors)
        reasoner.heads.load_state_dict(load_file(folder / HEADS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise ModelError(f"The adapter {folder.name} cannot be read", AGAIN) from problem
    return replace(loaded, routes=record.routes)
