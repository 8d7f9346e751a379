"""The mean of the segmenters of models that were trained on from one another (a "model soup").

Where one run went on from the other, the weights between both often do better than either: Wortsman et al. 2022 (arXiv
2203.05482) for several runs, 2109.01903 for a model and what it was tuned from. Which share is best is for validation
to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import InputError
from rau.models.store import ModelFolder, open_model, write_model

if TYPE_CHECKING:
    import torch

FILE = "segmenter.safetensors"
OLDER = "Give a model, and one that was trained on from it"


def between(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """one + share (other - one), float32; what is no floating point number is of `one`. Raises InputError."""
    if one.keys() != other.keys() or any(one[key].shape != other[key].shape for key in one):
        raise InputError("The two segmenters are not of one size", OLDER)
    return {
        key: value.float().lerp(other[key].float(), share) if value.is_floating_point() else value
        for key, value in one.items()
    }


def average(first: Path, second: Path, share: float, version: str, output: Path) -> ModelFolder:
    """Write a model whose segmenter lies between those of two, `share` of the way from the first to the second.

    All else is the first's, but its VLM, which is left out (`rau train pack --vlm` puts one beside). Raises InputError,
    ModelError.
    """
    if not 0 <= share <= 1:
        raise InputError(f"The share {share:g} is not between 0 and 1", "Give 0.5 for the mean of both")
    one, other = open_model(first), open_model(second)
    if one.manifest.segmenter.model_dump(exclude={"file"}) != other.manifest.segmenter.model_dump(exclude={"file"}):
        raise InputError("The two segmenters are not of one size", OLDER)
    mine, others = (model.tensors(model.manifest.segmenter.file) for model in (one, other))
    weights = {FILE: between(mine, others, share)}
    manifest: dict[str, Any] = {"name": one.manifest.name, "version": version, "licence": one.manifest.licence}
    manifest["segmenter"] = one.manifest.segmenter.model_dump(exclude={"file"})
    if one.manifest.encoder is not None:
        weights["encoder.safetensors"] = one.tensors(one.manifest.encoder.file)
        manifest["encoder"] = {k: v for k, v in one.manifest.encoder.model_dump().items() if k != "file"}
    if one.manifest.pixels is not None:
        weights["pixels.safetensors"] = one.tensors(one.manifest.pixels.file)
        manifest["pixels"] = {"config": one.manifest.pixels.config}
    trained = json.loads(one.manifest.trained or "{}")
    trained["segmenter"] = {"average_of": [told(one, 1 - share), told(other, share)]}
    manifest["trained"] = json.dumps(trained)
    return write_model(output, manifest, weights)


def told(model: ModelFolder, share: float) -> dict[str, Any]:
    """What is recorded of a part of the mean."""
    made = json.loads(model.manifest.trained or "{}").get("segmenter", {})
    digest = model.manifest.files[model.manifest.segmenter.file]
    return {"share": round(share, 6), "version": model.manifest.version, "sha256": digest, "trained": made}
