"""From training runs to a model folder that `rau segment --model` takes: half precision, checksums, provenance."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rau.errors import InputError
from rau.models.presets import preset
from rau.models.store import MANIFEST, ModelFolder, open_model, write_model
from rau.training import checkpoint
from rau.training.architecture import recorded

if TYPE_CHECKING:
    import torch

STATE, BEST = "state.safetensors", "best.safetensors"
LEFT_OUT = (
    "folder",
    "data",
    "cache",
    "start",
    "teacher",
    "model",
    "reasoner",
    "large",
)  # paths of a machine; and what has its own place


def kept_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training without the paths; also those of the stage before it (GRPO's `before`)."""
    kept = {k: v for k, v in settings.items() if k not in LEFT_OUT}
    return {k: kept_of(v) if isinstance(v, Mapping) else v for k, v in kept.items()}


def settings_of(run: Path) -> dict[str, object]:
    """The settings that a run was started with, and the steps it made. Raises InputError."""
    if not (run / STATE).is_file():
        raise InputError(f"The folder {run.name} holds no training run", "Give the folder of `rau train`")
    settings = checkpoint.settings_of(run / STATE)
    steps = {"steps_done": int(checkpoint.info_of(run / STATE)["step"])}
    if (run / BEST).is_file():
        steps["steps_packed"] = int(checkpoint.info_of(run / BEST)["step"])
    return {**kept_of(settings), **steps}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The averaged weights that validated best; of a run that keeps none, those of its last step."""
    return checkpoint.averaged_weights(run / (BEST if (run / BEST).is_file() else STATE))


@dataclass(frozen=True)
class VlmRuns:
    """Runs of the VLM: the folder of `rau train sft` or grpo, and of `rau train fusion`.

    uses, threshold: see `rau.models.store.VlmPart`.
    """

    reasoner: Path
    fusion: Path | None = None
    uses: tuple[str, ...] = ()
    threshold: float = 0.5


def vlm_runs(reasoner: Path | None, fusion: Path | None, uses: str, threshold: float) -> VlmRuns | None:
    """The options of `rau train pack`. Raises InputError."""
    wanted = tuple(one.strip() for one in uses.split(",") if one.strip())
    if reasoner is None:
        if fusion is not None or wanted:
            raise InputError("Without a VLM there is nothing to fuse or to use", "Give --vlm too")
        return None
    known = ("presence", "boxes", *(("fusion", "two-way") if fusion is not None else ()))
    if set(wanted) - set(known):
        raise InputError(f"{uses!r} cannot be made use of", f"Give some of {', '.join(known)}")
    if "two-way" in wanted and "fusion" not in wanted:
        raise InputError("Two-way is no use without fusion", "Give fusion,two-way")
    return VlmRuns(reasoner, fusion, wanted, threshold)


def pack(
    segmenter: Path,
    encoder: Path | None,
    output: Path,
    version: str,
    licence: str = "Apache-2.0",
    vlm: VlmRuns | None = None,
    pixels: Path | None = None,
) -> ModelFolder:
    """Write the averaged weights of a segmenter run (and of an encoder run) as a model folder. No path goes in.

    The segmenter is described as it was trained: its size and image size, not the preset's. segmenter, encoder, pixels:
    runs, or model folders whose part is taken over as it is. Raises InputError, ModelError.
    """
    made: dict[str, Any] = {}
    weights: dict[str, dict[str, torch.Tensor]] = {}
    manifest: dict[str, Any] = {"version": version, "licence": licence}
    if (segmenter / MANIFEST).is_file():
        whole = open_model(segmenter)
        manifest |= {"name": whole.manifest.name, "segmenter": whole.manifest.segmenter.model_dump(exclude={"file"})}
        weights["segmenter.safetensors"] = whole.tensors(whole.manifest.segmenter.file)
        made["segmenter"] = json.loads(whole.manifest.trained or "{}").get("segmenter", {})
        chosen = preset("rau-mini")
    else:
        made["segmenter"] = settings_of(segmenter)
        chosen = preset(str(made["segmenter"]["preset"]))
        weights["segmenter.safetensors"] = weights_of(segmenter)
        part = asdict(recorded(checkpoint.settings_of(segmenter / STATE)))
        manifest |= {"name": chosen.name, "segmenter": part}
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
    if pixels is not None:
        made["pixels"] = pack_pixels(pixels, manifest, weights)
    if vlm is None:
        manifest["trained"] = json.dumps(made)
        return write_model(output, manifest, weights)
    with tempfile.TemporaryDirectory() as scratch:
        folder, manifest["vlm"] = Path(scratch) / "vlm", {"uses": vlm.uses, "presence_threshold": vlm.threshold}
        made["vlm"] = pack_vlm(vlm, folder, manifest["vlm"], weights)
        manifest["trained"] = json.dumps(made)
        return write_model(output, manifest, weights, vlm=folder)


def pack_pixels(source: Path, manifest: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Put the pixel encoder of a run, or of a model folder, into `weights`; gives how it was trained.

    Raises InputError, ModelError.
    """
    from rau.adaptation.pixel_encoder import PixelEncoder

    if (source / MANIFEST).is_file():
        whole = open_model(source)
        if whole.manifest.pixels is None:
            raise InputError(
                f"The model {whole.manifest.name} has no pixel encoder", "Give another, or a run of `rau train`"
            )
        manifest["pixels"] = {"config": whole.manifest.pixels.config}
        weights["pixels.safetensors"] = whole.tensors(whole.manifest.pixels.file)
        return dict(json.loads(whole.manifest.trained or "{}").get("pixels", {}))
    made = settings_of(source)
    start = "encoder."
    weights["pixels.safetensors"] = {
        key[len(start) :]: value for key, value in weights_of(source).items() if key.startswith(start)
    }
    manifest["pixels"] = {"config": PixelEncoder().config}
    return made


def pack_vlm(runs: VlmRuns, folder: Path, part: dict[str, Any], weights: dict[str, Any]) -> dict[str, Any]:
    """Write the reasoner in half precision into `folder`; fusion and decoder into `weights`, told in `part`.

    Gives how they were trained. Raises InputError, ModelError: also where the fusion was trained with another reasoner.
    """
    from rau.training.fusion_outcome import checksums_of, load_fusion, reasoner_folder
    from rau.vlm.store import RECORD, load_reasoner, save_reasoner

    source = reasoner_folder(str(runs.reasoner))
    loaded = load_reasoner(source)
    trained = json.loads((source / RECORD).read_text(encoding="utf-8"))["trained"]
    made: dict[str, Any] = {"reasoner": kept_of(trained)}
    if runs.fusion is not None:
        fused = load_fusion(runs.fusion / "fusion")
        if fused.record["fits"]["reasoner"] != checksums_of(source):
            raise InputError("The fusion was trained with another reasoner", "Train it again with this one")
        if "two-way" in runs.uses and fused.fusion.config.two_way == "off":
            raise InputError("The fusion was not trained two-way", "Train one with --two-way, or leave that use out")
        part["fusion"] = fused.record["fusion"]
        weights["fusion.safetensors"] = {**fused.fusion.state_dict(), **fused.decoder}
        if fused.row is not None:
            table = loaded.reasoner.base.get_input_embeddings().weight
            table.data[loaded.reasoner.seg] = fused.row.to(table)
        made["fusion"] = kept_of(fused.record.get("settings", {}))
    save_reasoner(folder, loaded, made["reasoner"], half=True)
    return made
