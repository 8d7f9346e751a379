"""The adapter of a site: what the segmenter learnt from its accepted cases, in a small file beside the model.

Low-rank changes W + (alpha / rank) B A of the attention projections (LoRA, Hu et al. 2022, Eq. 3) of memory attention
and mask decoder. The file says which base it belongs to; it is laid on a copy of the weights in memory, so the model's
own files are never written.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rau.errors import ModelError

if TYPE_CHECKING:
    import torch

    from rau.models.engine import Engine
    from rau.models.store import ModelFolder
    from rau.vlm.engine import Reasoning

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")  # what LoRA is put on, in these parts of SAM2
PARTS = ("memory_attention.", "sam_mask_decoder.")
DOWN, UP = "down.", "up."  # A (rank, in) and B (out, rank) of each projection, in the file
RECORD, LARGEST = "adapter", 8 << 20  # bytes of an adapter file
AGAIN = "Train it again with `rau train adapter`, or leave --adapter out"


class AdapterRecord(BaseModel):
    """What an adapter file says of itself. base: SHA-256 of the base's segmenter weights; model: its name.

    trained: cases, steps, seed, Dice of left-out cases without and with it, and the like. content: SHA-256 of the rest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    base: str
    model: str
    rank: int = Field(ge=1, le=64)
    alpha: float = Field(gt=0)
    trained: dict[str, Any] = Field(default_factory=dict)
    content: str = ""

    def sealed(self, tensors: Mapping[str, torch.Tensor]) -> AdapterRecord:
        return self.model_copy(update={"content": self.seal(tensors)})

    def seal(self, tensors: Mapping[str, torch.Tensor]) -> str:
        """SHA-256 over weights and record."""
        from rau.models.engine import content_hash

        parts = [part for name in sorted(tensors) for part in (name, tensors[name].numpy())]
        return content_hash(self.model_dump_json(exclude={"content"}), *parts)


@dataclass(frozen=True)
class Adapter:
    """tensors: DOWN and UP of each projection, float32."""

    record: AdapterRecord
    tensors: Mapping[str, torch.Tensor]

    def told(self) -> dict[str, Any]:
        """For the provenance of a run."""
        return {"sha256": self.record.content, "base": self.record.base, "trained": self.record.trained}


def projections(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linear layers that an adapter may change, by name."""
    from torch import nn

    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    return {name: one for name, one in linear.items() if name.endswith(ATTENTION) and name.startswith(PARTS)}


def base_of(folder: ModelFolder) -> str:
    """SHA-256 of the weights that an adapter of this model belongs to."""
    return folder.manifest.files[folder.manifest.segmenter.file]


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Write whole or not at all. Raises InputError when it cannot be written."""
    from safetensors.torch import save_file

    from rau.export.writing import replaced

    tensors = {name: one.contiguous().clone() for name, one in adapter.tensors.items()}
    with replaced(path) as temporary:
        save_file(tensors, temporary, {RECORD: adapter.record.model_dump_json()})


def read_adapter(path: Path) -> Adapter:
    """Raises ModelError: missing, no adapter, damaged or changed."""
    from safetensors import SafetensorError, safe_open

    name = path.name
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"{name} is too large for an adapter", AGAIN)
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get(RECORD, "")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle is no mapping)
    except OSError:
        raise ModelError(f"The adapter {name} cannot be read", "Check its path") from None
    except SafetensorError:
        raise ModelError(f"The adapter {name} is damaged", AGAIN) from None
    try:
        record = AdapterRecord.model_validate_json(told)
    except ValidationError:
        raise ModelError(f"{name} is no adapter, or one of another version of RAUSlicer", AGAIN) from None
    if record.seal(tensors) != record.content:
        raise ModelError(f"The adapter {name} is damaged or was changed", AGAIN)
    return Adapter(record, tensors)


def check_base(adapter: Adapter, folder: ModelFolder, name: str) -> None:
    """Raises ModelError for an adapter of other weights."""
    if adapter.record.base != base_of(folder):
        here = f"{folder.manifest.name} {folder.manifest.version}"
        raise ModelError(f"The adapter {name} was trained for other weights than those of {here}", AGAIN)


def lay_on(model: torch.nn.Module, adapter: Adapter) -> None:
    """Add the adapter to the weights of `model`, in place. Raises ModelError when it does not fit."""
    import torch

    known, scale = projections(model), adapter.record.alpha / adapter.record.rank
    names = {key.removeprefix(DOWN) for key in adapter.tensors if key.startswith(DOWN)}
    fits = names <= set(known) and set(adapter.tensors) == {start + name for start in (DOWN, UP) for name in names}
    for name in names if fits else ():
        down, up, weight = adapter.tensors[DOWN + name], adapter.tensors[UP + name], known[name].weight
        whole = down.shape == (adapter.record.rank, weight.shape[1]) and up.shape == (weight.shape[0], len(down))
        if not whole or not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
            fits = False
            break
        with torch.no_grad():
            weight.add_((scale * (up @ down)).to(weight))
    if not fits:
        raise ModelError("The adapter does not fit the model", AGAIN)


def adapted(engine: Engine, path: str | Path) -> Engine:
    """The engine with the adapter of that file; the given one is as it was. Kept until another file is asked for.

    Raises ModelError: missing, damaged, of another base.
    """
    file = Path(path).expanduser()
    adapter = read_adapter(file)
    check_base(adapter, engine.folder, file.name)
    key = adapter.record.content
    if key not in engine.adapted:
        engine.adapted.clear()
        engine.adapted[key] = with_adapter(engine, adapter)
    return engine.adapted[key]


def with_adapter(engine: Engine, adapter: Adapter) -> Engine:
    """The engine with a changed copy of the segmenter, and nothing encoded yet."""
    from rau.sam.segmenter import Segmenter

    model = copied(engine.segmenter.model)
    lay_on(model, adapter)
    segmenter = Segmenter(model, engine.segmenter.rows_at_once)
    reasoning = None if engine.reasoning is None else _with_segmenter(engine.reasoning, segmenter)
    new = replace(engine, segmenter=segmenter, reasoning=reasoning, adapter=adapter.told(), adapted={})
    return replace(new, _kept=type(engine._kept)())


def copied(model: Any) -> Any:
    """A copy of a SAM2 of its own, which no segmenter listens to yet."""
    twin = copy.deepcopy(model)
    twin.sam_mask_decoder._forward_hooks.clear()
    return twin


def _with_segmenter(reasoning: Reasoning, segmenter: Any) -> Reasoning:
    """The decoder that was trained with the VLM stays as it is; what comes before it is the adapted segmenter's."""
    from rau.sam.segmenter import Segmenter

    if reasoning.segmenter is None:
        return reasoning
    twin = copy.copy(segmenter.model)
    twin._modules = dict(segmenter.model._modules)
    decoder = copy.deepcopy(reasoning.segmenter.model.sam_mask_decoder)
    decoder._forward_hooks.clear()
    twin._modules["sam_mask_decoder"] = decoder
    return replace(reasoning, segmenter=Segmenter(twin))
