"""The engine: models loaded once, kept between runs, with the references they have encoded."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rau.errors import InputError, ModelError
from rau.models.store import ModelFolder, find_model, open_model
from rau.settings import SegmentSettings

if TYPE_CHECKING:
    from rau.adaptation.pixel_encoder import PixelEncoder
    from rau.references.encoded import EncodedReference
    from rau.references.encoder import Encoder
    from rau.sam.segmenter import Segmenter
    from rau.vlm.engine import Reasoning

KEPT_REFERENCES = 6  # encoded (reference, plane) pairs kept between runs
FEW = 2  # processors, which are as a rule the two of one core: a second thread costs time (a sixth, measured)


@lru_cache(maxsize=1)
def packages() -> dict[str, str]:
    """Versions of what results depend on; looked up once, a hundredth of a second."""
    from importlib.metadata import version

    return {package: version(package) for package in ("torch", "transformers", "sam2", "SimpleITK", "numpy")}


@dataclass
class Engine:
    """segmenter: always; encoder: None when the model has none (slices are then matched by position alone).

    reasoning: the VLM; None when the model has none. pixels: features of a pixel for the experts, on the CPU;
    None: they see filters alone. adapter: what is told of the site's adapter that is laid on
    (`rau.adaptation.site`); None: the model as it is. adapted: this engine with an adapter, by its hash.
    """

    folder: ModelFolder
    segmenter: Segmenter
    encoder: Encoder | None
    device: str
    reasoning: Reasoning | None = None
    pixels: PixelEncoder | None = None
    adapter: dict[str, Any] | None = None
    adapted: dict[str, Engine] = field(default_factory=dict, repr=False)
    _kept: OrderedDict[str, EncodedReference] = field(default_factory=OrderedDict, repr=False)

    @property
    def name(self) -> str:
        return self.folder.manifest.name

    def versions(self) -> dict[str, Any]:
        """What made a result: package and model versions, checksums."""
        import rau

        manifest = self.folder.manifest
        return {
            "rau": rau.__version__,
            "model": {"name": manifest.name, "version": manifest.version, "sha256": dict(manifest.files)},
            **({} if self.adapter is None else {"adapter": self.adapter}),
            "device": self.device,
            **packages(),
        }

    def uses(self, settings: SegmentSettings) -> tuple[str, ...]:
        """What these settings make of the VLM's cues; empty: it is not asked."""
        if self.reasoning is None or settings.reasoning == "off":
            return ()
        return self.reasoning.uses if settings.reasoning == "auto" else self.reasoning.all_uses

    def remembered(self, key: str, make: Callable[[], EncodedReference]) -> EncodedReference:
        """The encoded reference of that content hash; made when it is not at hand. The oldest is let go."""
        if key not in self._kept:
            self._kept[key] = make()
            while len(self._kept) > KEPT_REFERENCES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def content_hash(*parts: np.ndarray | str | int | tuple[Any, ...]) -> str:
    """SHA-256 over arrays (values, shape, type) and words; no name or path goes in."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()


def device_of(wanted: str) -> str:
    """ "auto" to what is there. Raises InputError when CUDA is asked for and missing."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("No CUDA device was found", "Choose the device cpu, or auto")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def threads_of(wanted: int, processors: int) -> int:
    """Threads for torch, where `wanted` (0: not told) and so many processors are; 0: as many as it takes by itself."""
    return wanted or (1 if processors <= FEW else 0)


def load_engine(settings: SegmentSettings | None = None) -> Engine:
    """Load the models that `settings` name (model, device, threads). Raises ModelError, InputError."""
    import torch

    from rau.adaptation.pixel_encoder import PixelEncoder
    from rau.references.encoder import Encoder, build_encoder
    from rau.sam.build import build_sam2
    from rau.sam.segmenter import Segmenter
    from rau.vlm.engine import load_reasoning

    settings = settings or SegmentSettings()
    folder = open_model(find_model(settings.model))
    device = device_of(settings.device)
    threads = threads_of(settings.threads, os.cpu_count() or 1)
    if threads:
        torch.set_num_threads(threads)
    manifest = folder.manifest
    part = manifest.segmenter
    model = build_sam2(part.config, {**part.overrides, "image_size": part.image_size})
    try:
        model.load_state_dict(folder.tensors(part.file))
        encoder = None
        if manifest.encoder:
            dinov2 = build_encoder(manifest.encoder.config)
            dinov2.load_state_dict(folder.tensors(manifest.encoder.file))
            encoder = Encoder(dinov2.eval().requires_grad_(False).to(device), manifest.encoder.image_size)
        pixels = None
        if manifest.pixels:
            pixels = PixelEncoder(**manifest.pixels.config)
            pixels.load_state_dict(folder.tensors(manifest.pixels.file))
            pixels.eval().requires_grad_(False)  # as all of the experts, on the CPU
    except (RuntimeError, TypeError, ValueError) as problem:
        raise ModelError(
            f"The weights of {manifest.name} do not fit its model.json", "Get the model again"
        ) from problem
    segmenter = Segmenter(model.eval().requires_grad_(False).to(device))
    wanted = (
        settings.reasoning != "off" and manifest.vlm is not None and (manifest.vlm.uses or settings.reasoning != "auto")
    )
    reasoning = load_reasoning(folder, segmenter, device) if wanted else None
    return Engine(folder, segmenter, encoder, device, reasoning, pixels)
