"""From training runs to a model folder that `rau segment --model` takes: half precision, checksums, provenance."""

from __future__ import annotations

import json
from pathlib import Path

from rau.errors import InputError
from rau.models.presets import preset
from rau.models.store import ModelFolder, write_model
from rau.training import checkpoint

STATE = "state.safetensors"


def settings_of(run: Path) -> dict[str, object]:
    """The settings that a run was started with, and the steps it made. Raises InputError."""
    from safetensors import safe_open

    if not (run / STATE).is_file():
        raise InputError(f"The folder {run.name} holds no training run", "Give the folder of `rau train`")
    with safe_open(run / STATE, "pt") as file:
        info = file.metadata()
    settings = json.loads(info["settings"])
    return {**{k: v for k, v in settings.items() if k not in ("folder", "data")}, "steps_done": int(info["step"])}


def pack(segmenter: Path, encoder: Path | None, output: Path, version: str, licence: str = "Apache-2.0") -> ModelFolder:
    """Write the averaged weights of a segmenter run (and of an encoder run) as a model folder. No path goes in."""
    made = {"segmenter": settings_of(segmenter)}
    chosen = preset(str(made["segmenter"]["preset"]))
    weights = {"segmenter.safetensors": checkpoint.averaged_weights(segmenter / STATE)}
    part = {"config": chosen.sam_config, "overrides": chosen.sam_overrides, "image_size": chosen.image_size}
    manifest: dict[str, object] = {"name": chosen.name, "version": version, "licence": licence, "segmenter": part}
    if encoder is not None:
        made["encoder"] = settings_of(encoder)
        weights["encoder.safetensors"] = checkpoint.averaged_weights(encoder / STATE)
        manifest["encoder"] = {"config": chosen.encoder, "image_size": chosen.encoder_size}
    manifest["trained"] = json.dumps(made)
    return write_model(output, manifest, weights)
