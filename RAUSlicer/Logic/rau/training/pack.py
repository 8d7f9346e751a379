"""From training runs to a model folder that `rau segment --model` takes: half precision, checksums, provenance."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rau.errors import InputError
from rau.models.presets import preset
from rau.models.store import MANIFEST, ModelFolder, open_model, write_model
from rau.training import checkpoint
from rau.training.architecture import recorded

if TYPE_CHECKING:
    import torch

STATE, BEST = "state.safetensors", "best.safetensors"
LEFT_OUT = ("folder", "data", "cache", "start", "teacher", "model")  # paths of a machine; and what has its own place


def settings_of(run: Path) -> dict[str, object]:
    """The settings that a run was started with, and the steps it made. Raises InputError."""
    if not (run / STATE).is_file():
        raise InputError(f"The folder {run.name} holds no training run", "Give the folder of `rau train`")
    settings = checkpoint.settings_of(run / STATE)
    steps = {"steps_done": int(checkpoint.info_of(run / STATE)["step"])}
    if (run / BEST).is_file():
        steps["steps_packed"] = int(checkpoint.info_of(run / BEST)["step"])
    return {**{k: v for k, v in settings.items() if k not in LEFT_OUT}, **steps}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that validated best; of a run that keeps none, those of its last step."""
    return checkpoint.averaged_weights(run / (BEST if (run / BEST).is_file() else STATE))


def pack(segmenter: Path, encoder: Path | None, output: Path, version: str, licence: str = "Apache-2.0") -> ModelFolder:
    """Write the averaged weights of a segmenter run (and of an encoder run) as a model folder. No path goes in.

    The segmenter is described as it was trained: its size and image size, not the preset's. encoder: a run, or a model
    folder whose encoder is taken over as it is. Raises InputError, ModelError.
    """
    made = {"segmenter": settings_of(segmenter)}
    chosen = preset(str(made["segmenter"]["preset"]))
    weights = {"segmenter.safetensors": weights_of(segmenter)}
    part = asdict(recorded(checkpoint.settings_of(segmenter / STATE)))
    manifest: dict[str, object] = {"name": chosen.name, "version": version, "licence": licence, "segmenter": part}
    if encoder is not None and (encoder / MANIFEST).is_file():
        other = open_model(encoder)
        if other.manifest.encoder is None:
            raise InputError(f"The model {other.manifest.name} has no encoder", "Give another, or a run of `rau train`")
        weights["encoder.safetensors"] = other.tensors(other.manifest.encoder.file)
        manifest["encoder"] = {k: v for k, v in other.manifest.encoder.model_dump().items() if k != "file"}
        made["encoder"] = json.loads(other.manifest.trained or "{}").get("encoder", {})
    elif encoder is not None:
        made["encoder"] = settings_of(encoder)
        weights["encoder.safetensors"] = weights_of(encoder)
        manifest["encoder"] = {"config": chosen.encoder, "image_size": chosen.encoder_size}
    manifest["trained"] = json.dumps(made)
    return write_model(output, manifest, weights)
