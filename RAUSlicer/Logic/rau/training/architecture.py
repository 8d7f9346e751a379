"""Which SAM2 is trained: a preset, perhaps of another size, or the model that training begins from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rau.errors import InputError
from rau.models.presets import preset
from rau.models.store import ModelFolder, find_model, open_model
from rau.sam.build import mini_overrides

if TYPE_CHECKING:
    import torch

WIDTH, EMBED_DIM, STAGES = 112, 32, "1,2,3,1"  # of the preset rau-mini


class Wanted(Protocol):
    """The settings that choose a model; 0 or "" leaves it to the preset, or to the model that training begins from."""

    @property
    def preset(self) -> str: ...
    @property
    def start(self) -> str: ...
    @property
    def image_size(self) -> int: ...
    @property
    def sizes(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def stages(self) -> str: ...


@dataclass(frozen=True)
class Architecture:
    """config, overrides: see `rau.sam.build.build_sam2`. image_size: pixels a side at which the model is used."""

    config: str
    overrides: dict[str, Any]
    image_size: int


def numbers(text: str, what: str) -> tuple[int, ...]:
    """ "192,256" to (192, 256). Raises InputError."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{what} {text!r} are no numbers", "Give whole numbers with commas between them") from None


def sizes_of(wanted: Wanted, image_size: int) -> tuple[int, ...]:
    """Image sizes that steps draw from, the one to validate at first. Raises InputError."""
    sizes = numbers(wanted.sizes, "The sizes") or (image_size,)
    if any(size < 64 or size % 64 for size in sizes):
        raise InputError("An image size is not a multiple of 64", "Give 128, 192, 256, ...")
    return sizes


def asked_size(wanted: Wanted, usual: int) -> int:
    """Pixels a side: the image size asked for, else the first of the sizes, else the usual one. Raises InputError."""
    first = sizes_of(wanted, wanted.image_size or usual)[0]
    if wanted.image_size and first != wanted.image_size:
        raise InputError("The image size is not the first of the sizes", "Give one of them, or the same")
    return first


def resized(wanted: Wanted, image_size: int) -> dict[str, Any]:
    """Overrides for `rau-mini` of the width, trunk and depth asked for. Raises InputError."""
    if wanted.preset != "rau-mini" or wanted.start:
        raise InputError("Only rau-mini trained from scratch can have another model size", "Leave --start out")
    stages = numbers(wanted.stages or STAGES, "The stages")
    width, embed_dim = wanted.width or WIDTH, wanted.embed_dim or EMBED_DIM
    if (
        len(stages) != 4 or min(stages) < 1 or stages[2] < 3
    ):  # the last two of the third attend globally, its first one pools
        raise InputError("The stages do not fit", "Give four numbers above 0, the third above 2")
    if width < 16 or width % 16 or embed_dim < 8 or embed_dim % 8:
        raise InputError("The model size does not fit", "Width: a multiple of 16; embed-dim: a multiple of 8")
    return mini_overrides(image_size, width, embed_dim, (stages[0], stages[1], stages[2], stages[3]))


def started_from(wanted: Wanted) -> ModelFolder | None:
    """The model that training begins from, verified; None: from scratch. Raises ModelError."""
    return open_model(find_model(wanted.start)) if wanted.start else None


def architecture_of(wanted: Wanted, start: ModelFolder | None = None) -> Architecture:
    """What to build. Raises InputError, ModelError."""
    chosen = preset(wanted.preset)
    config, overrides, usual = chosen.sam_config, chosen.sam_overrides, chosen.image_size
    if start is not None:
        part = start.manifest.segmenter
        config, overrides, usual = part.config, part.overrides, part.image_size
    size = asked_size(wanted, usual)
    if wanted.width or wanted.embed_dim or wanted.stages:
        overrides = resized(wanted, size)
    if size != usual:
        overrides = {**overrides, "image_size": size}
    return Architecture(config, dict(overrides), size)


def recorded(settings: Mapping[str, Any]) -> Architecture:
    """What a run trained, from the settings in its state; runs that kept no model trained their preset as it is."""
    if "model" in settings:
        return Architecture(**settings["model"])
    chosen = preset(str(settings["preset"]))
    return Architecture(chosen.sam_config, chosen.sam_overrides, chosen.image_size)


def resumed(wanted: Wanted, settings: Mapping[str, Any]) -> Architecture:
    """What a run goes on with. Raises InputError where the call asks for another model than the run has."""
    have = recorded(settings)
    usual = {"preset": "", "width": WIDTH, "embed_dim": EMBED_DIM, "stages": STAGES}
    differing = [k for k, v in usual.items() if getattr(wanted, k) not in (0, "", settings.get(k) or v)]
    if asked_size(wanted, have.image_size) != have.image_size or differing:
        what = (differing or ["image_size"])[0].replace("_", "-")
        raise InputError(f"The run in this folder has another {what}", "Use another folder, or leave the option out")
    return have


def load_start(model: torch.nn.Module, start: ModelFolder) -> dict[str, str]:
    """Take over the weights of a model folder; gives what to record of it. Raises InputError."""
    manifest = start.manifest
    try:
        model.load_state_dict(start.tensors(manifest.segmenter.file))
    except RuntimeError as problem:
        raise InputError(f"The weights of {manifest.name} do not fit", "Get the model again") from problem
    digest = manifest.files[manifest.segmenter.file]
    return {"name": manifest.name, "version": manifest.version, "sha256": digest}
