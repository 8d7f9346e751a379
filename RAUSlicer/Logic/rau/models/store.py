"""Model folders: `model.json`, safetensors, a SHA-256 for each file. Read strictly, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rau.errors import ModelError

if TYPE_CHECKING:
    import torch

MANIFEST = "model.json"
VLM_FILES = ("config.json", "heads.safetensors", "model.safetensors", "reasoner.json", "tokenizer.json")  # at least


class SegmenterPart(BaseModel):
    """SAM2: a configuration of the `sam2` package with changes, and its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str
    overrides: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(ge=64, le=2048, multiple_of=64)
    file: str = "segmenter.safetensors"


class EncoderPart(BaseModel):
    """DINOv2: arguments of `transformers.Dinov2Config`, and its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    image_size: int = Field(ge=14, le=2048)
    file: str = "encoder.safetensors"


class PixelPart(BaseModel):
    """The experts' pixel encoder: arguments of `rau.adaptation.pixel_encoder.PixelEncoder`, and its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: dict[str, Any]
    file: str = "pixels.safetensors"


class VlmPart(BaseModel):
    """Qwen2.5-VL with its heads in a folder of its own (`rau.vlm.store`), and what the default makes of its cues.

    uses: those that were measured to help; "presence" gates, "boxes" and "fusion" prompt the segmenter, "two-way"
    (with "fusion", of a fusion trained so) adds to its image embedding.
    fusion: arguments of `rau.sam.fusion.FusionConfig`, weights in `fusion_file` (those of SAM2's decoder with it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Literal["vlm"] = "vlm"
    uses: tuple[Literal["presence", "boxes", "fusion", "two-way"], ...] = ()
    presence_threshold: float = Field(0.5, ge=0.0, le=1.0)
    fusion: dict[str, Any] | None = None
    fusion_file: str = "fusion.safetensors"

    @model_validator(mode="after")
    def _two_way_needs_a_fusion_trained_so(self) -> VlmPart:
        trained = (self.fusion or {}).get("two_way", "off") != "off"
        if "two-way" in self.uses and not (trained and "fusion" in self.uses):
            raise ValueError("two-way is of use only with a fusion that was trained two-way")
        return self


class Manifest(BaseModel):
    """What `model.json` says. files: SHA-256 of each file. trained: how the weights came to be (free text)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(1, ge=1, le=1)
    name: str
    version: str
    licence: str
    segmenter: SegmenterPart
    encoder: EncoderPart | None = None
    pixels: PixelPart | None = None
    vlm: VlmPart | None = None
    files: dict[str, str]
    trained: str = ""


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder."""

    path: Path
    manifest: Manifest

    def tensors(self, file: str) -> dict[str, torch.Tensor]:
        """The weights of one file as float32."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return {k: v.float() if v.is_floating_point() else v for k, v in load_file(self.path / file).items()}
        except (OSError, SafetensorError) as problem:
            raise ModelError(
                f"{file} of the model {self.manifest.name} cannot be read", "Get the model again"
            ) from problem


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def bundled_folders() -> list[Path]:
    """Where models that came with RAUSlicer may lie: beside the module in Slicer or the sources, or in the wheel."""
    package = Path(__file__).resolve().parent.parent
    return [package.parent.parent / "Resources" / "Models", package / "_models"]


def user_folder() -> Path:
    """Where the user's own models lie: RAU_MODELS, else the user's data folder."""
    chosen = os.environ.get("RAU_MODELS")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".local" / "share")
    return Path(base) / "rauslicer" / "models"


def known_models() -> dict[str, Path]:
    """Model name -> folder, the bundled ones first."""
    found: dict[str, Path] = {}
    for base in [*bundled_folders(), user_folder()]:
        if base.is_dir():
            for folder in sorted(base.iterdir()):
                if (folder / MANIFEST).is_file():
                    found.setdefault(folder.name, folder)
    return found


def find_model(name: str) -> Path:
    """The folder of "auto" (the bundled rau-mini), of a known name, or of a path. Raises ModelError."""
    wanted = "rau-mini" if name == "auto" else name
    known = known_models()
    if wanted in known:
        return known[wanted]
    folder = Path(wanted).expanduser()
    if (folder / MANIFEST).is_file():
        return folder
    have = ", ".join(known) or "none"
    if wanted == "rau-7b":
        raise ModelError(
            "The model rau-7b is not on this computer", "Put its folder into the models folder, or use rau-mini"
        )
    raise ModelError(f"No model {Path(wanted).name!r} and no model folder of that path", f"Models here: {have}")


def needed_files(manifest: Manifest) -> list[str]:
    """The files that a model must have, each with its checksum; of a VLM everything in its folder."""
    needed = [manifest.segmenter.file] + ([manifest.encoder.file] if manifest.encoder else [])
    needed += [manifest.pixels.file] if manifest.pixels else []
    if manifest.vlm:
        needed += [f"vlm/{name}" for name in VLM_FILES]
        needed += [name for name in manifest.files if name.startswith("vlm/") and name not in needed]
        needed += [manifest.vlm.fusion_file] if manifest.vlm.fusion else []
    return needed


def allowed(file: str) -> bool:
    """Weights beside the manifest; weights, JSON and the chat template in the folder of the VLM. Nothing else."""
    folder, _, name = file.rpartition("/")
    kinds = (".safetensors", ".json", ".jinja") if folder else (".safetensors",)
    return folder in ("", "vlm") and Path(name).name == name and name.endswith(kinds)


def open_model(folder: Path, verify: bool = True) -> ModelFolder:
    """Read the manifest and check every file's SHA-256. Raises ModelError: missing, malformed, tampered with."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as problem:
        raise ModelError(
            f"The model folder {folder.name} has no readable {MANIFEST}", "Get the model again"
        ) from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or MANIFEST
        raise ModelError(f"{MANIFEST} of {folder.name} is not valid at {where}", "Get the model again") from problem
    for file in needed_files(manifest):
        if not allowed(file):
            raise ModelError(f"{MANIFEST} of {folder.name} names a file that is not allowed", "Get the model again")
        if file not in manifest.files:
            raise ModelError(f"{MANIFEST} of {folder.name} has no checksum for {file}", "Get the model again")
        if not (folder / file).is_file():
            raise ModelError(f"The model {folder.name} lacks {file}", "Get the model again")
        if verify and sha256(folder / file) != manifest.files[file]:
            raise ModelError(f"{file} of the model {folder.name} is damaged or was changed", "Get the model again")
    if manifest.vlm and any(f"vlm/{one.name}" not in manifest.files for one in (folder / "vlm").iterdir()):
        raise ModelError(f"The VLM of {folder.name} holds a file without a checksum", "Get the model again")
    return ModelFolder(folder, manifest)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a temporary folder beside this one, then put that in its place, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        fill(part)
        part.chmod(0o755)
        old = folder.with_name(f".old-{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_model(
    folder: Path,
    manifest: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, torch.Tensor]],
    half: bool = True,
    vlm: Path | None = None,
) -> ModelFolder:
    """Write a model folder whole: weights by file name (half precision unless told), then checksums and manifest.

    manifest: fields of `Manifest` without `files`. vlm: folder of a reasoner, taken over as it is. Files of an existing
    folder are replaced one by one, the manifest last.
    """
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
        for name, tensors in weights.items():
            ready = {
                k: (v.to(torch.float16) if half and v.is_floating_point() else v).contiguous().clone()
                for k, v in tensors.items()
            }
            save_file(ready, Path(scratch) / name)
        for one in sorted(vlm.iterdir()) if vlm else ():
            (Path(scratch) / "vlm").mkdir(exist_ok=True)
            shutil.copyfile(one, Path(scratch) / "vlm" / one.name)
        made = [*weights, *(f"vlm/{one.name}" for one in (sorted(vlm.iterdir()) if vlm else ()))]
        files = {name: sha256(Path(scratch) / name) for name in made}
        full = Manifest.model_validate({**manifest, "files": files})
        (Path(scratch) / MANIFEST).write_text(json.dumps(full.model_dump(), indent=1) + "\n", encoding="utf-8")
        if vlm:
            (folder / "vlm").mkdir(exist_ok=True)
        for name in [*made, MANIFEST]:
            (Path(scratch) / name).chmod(0o644)
            os.replace(Path(scratch) / name, folder / name)
    return open_model(folder)
