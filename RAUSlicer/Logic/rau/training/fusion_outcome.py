"""What `rau train fusion` leaves: a folder `fusion/` of safetensors and fusion.json, written whole, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rau.errors import InputError, ModelError
from rau.models.store import find_model, open_model, sha256, write_folder
from rau.sam.build import build_sam2
from rau.sam.fusion import Fusion, FusionConfig
from rau.sam.segmenter import Segmenter
from rau.vlm.store import RECORD
from rau.vlm.vocabulary import SEG

FUSION, DECODER, ROWS, INFO = "fusion.safetensors", "decoder.safetensors", "rows.safetensors", "fusion.json"
PART = "sam_mask_decoder."  # of SAM2's weights, what may change


@dataclass(frozen=True)
class Fused:
    """What `fusion/` holds. decoder: SAM2's mask decoder, by its names in SAM2. row: (H,) `<Seg>` embedding, or None.

    record: fusion.json; its "fits" names the SHA-256 of the reasoner's files and of the segmenter that belong to it.
    """

    fusion: Fusion
    decoder: Mapping[str, torch.Tensor]
    row: torch.Tensor | None
    record: Mapping[str, Any]

    def put_into(self, segmenter: Segmenter) -> None:
        """The mask decoder in the place of the segmenter's own."""
        segmenter.model.load_state_dict({**segmenter.model.state_dict(), **self.decoder})


def reasoner_folder(given: str) -> Path:
    """Where reasoner.json lies: in `reasoner/` of a run, `vlm/` of a model, or the folder itself. Raises InputError."""
    for folder in (Path(given) / "reasoner", Path(given) / "vlm", Path(given)):
        if (folder / RECORD).is_file():
            return folder
    raise InputError(f"The folder {Path(given).name!r} holds no reasoner", "Give the folder of `rau train sft`")


def checksums_of(reasoner: Path) -> dict[str, str]:
    """SHA-256 of each weights file of a reasoner's folder."""
    return {file.name: sha256(file) for file in sorted(reasoner.glob("*.safetensors"))}


def segmenter_of(model: str) -> tuple[Segmenter, str]:
    """The segmenter of a model (name or folder), frozen, and the SHA-256 of its weights. Raises ModelError."""
    folder = open_model(find_model(model))
    part = folder.manifest.segmenter
    sam = build_sam2(part.config, {**part.overrides, "image_size": part.image_size})
    try:
        sam.load_state_dict(folder.tensors(part.file))
    except RuntimeError as problem:
        name = folder.manifest.name
        raise ModelError(f"The weights of {name} do not fit its model.json", "Get the model again") from problem
    return Segmenter(sam.eval().requires_grad_(False)), folder.manifest.files[part.file]


def save_fusion(folder: Path, fused: Fused) -> None:
    """Write the outcome whole: a temporary folder beside it, then renamed. The record gets configuration, checksums."""
    from safetensors.torch import save_file

    tensors: dict[str, Mapping[str, torch.Tensor]] = {FUSION: fused.fusion.state_dict(), DECODER: fused.decoder}
    if fused.row is not None:
        tensors[ROWS] = {SEG: fused.row}

    def fill(part: Path) -> None:
        for file, weights in tensors.items():
            save_file({key: value.detach().contiguous().clone() for key, value in weights.items()}, part / file)
        files = {file: sha256(part / file) for file in tensors}
        record = {"format": 1, "fusion": asdict(fused.fusion.config), "files": files, **fused.record}
        (part / INFO).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    write_folder(folder, fill)


def load_fusion(folder: Path) -> Fused:
    """Read what `save_fusion` wrote. Raises ModelError: missing, damaged, of another format."""
    from safetensors.torch import load_file

    try:
        record = json.loads((folder / INFO).read_text(encoding="utf-8"))
        files = {FUSION, DECODER, *({ROWS} & set(record["files"]))}
        if record["format"] != 1 or any(sha256(folder / file) != record["files"][file] for file in files):
            raise ValueError("another format, or a file was changed")
        fusion = Fusion(FusionConfig(**record["fusion"]))
        fusion.load_state_dict(load_file(folder / FUSION))
        decoder = load_file(folder / DECODER)
        if any(not key.startswith(PART) for key in decoder):
            raise ValueError("weights that are not of the mask decoder")
        row = load_file(folder / ROWS)[SEG] if ROWS in files else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as problem:
        raise ModelError(f"The fusion in {folder.name} cannot be read", "Train it again") from problem
    return Fused(fusion.eval().requires_grad_(False), decoder, row, record)
