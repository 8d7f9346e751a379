"""The VLM of a loaded model: locator, fusion, and the segmenter whose decoder was trained with it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rau.errors import ModelError

if TYPE_CHECKING:
    from rau.models.store import ModelFolder
    from rau.sam.fusion import Fusion
    from rau.sam.segmenter import Segmenter
    from rau.vlm.locate import Locator

DECODER = "sam_mask_decoder."  # prefix of SAM2's decoder in the file of the fusion


@dataclass(frozen=True)
class Reasoning:
    """locator: asks the VLM. fusion, segmenter: of `<Seg>` states into a decoder trained with them; None without.

    uses: what the default makes of the cues. threshold: of presence, 0 to 1.
    """

    locator: Locator
    fusion: Fusion | None
    segmenter: Segmenter | None
    uses: tuple[str, ...]
    threshold: float

    @property
    def all_uses(self) -> tuple[str, ...]:
        """Everything that the cues can be made use of for."""
        fusion = self.fusion
        if fusion is None:
            return ("presence", "boxes")
        return ("presence", "boxes", "fusion", *(("two-way",) if fusion.config.two_way != "off" else ()))

    def routed(self) -> Reasoning | None:
        """The same, asked for everything at once (`rau.vlm.routed_locate`); None where the VLM never learnt that."""
        from rau.vlm.routed_locate import RoutedLocator

        loaded, cache, device = self.locator.loaded, self.locator.cache, self.locator.device
        return replace(self, locator=RoutedLocator(loaded, cache, device)) if loaded.routes else None

    def two_way(self, uses: Sequence[str]) -> str:
        """Which states of the target are needed for these uses, see `rau.sam.two_way`."""
        wanted = self.fusion is not None and {"fusion", "two-way"} <= set(uses)
        return str(self.fusion.config.two_way) if wanted and self.fusion is not None else "off"


def load_reasoning(folder: ModelFolder, segmenter: Segmenter, device: str) -> Reasoning | None:
    """The VLM of a model folder; None where it has none. Raises ModelError."""
    from rau.vlm.locate import Locator
    from rau.vlm.prefix import PrefixCache
    from rau.vlm.store import load_reasoner

    part = folder.manifest.vlm
    if part is None:
        return None
    loaded = load_reasoner(folder.path / part.folder)
    loaded.reasoner.eval().requires_grad_(False).to(device)
    locator = Locator(loaded, PrefixCache(folder.manifest.files["vlm/model.safetensors"]), device)
    if part.fusion is None:
        return Reasoning(locator, None, None, part.uses, part.presence_threshold)
    fusion, decoder = fused(folder, part.fusion, part.fusion_file, segmenter)
    return Reasoning(locator, fusion.to(device), decoder, part.uses, part.presence_threshold)


def fused(folder: ModelFolder, config: dict[str, Any], file: str, segmenter: Segmenter) -> tuple[Any, Segmenter]:
    """Fusion and a segmenter that shares everything with the given one but the mask decoder. Raises ModelError."""
    from rau.sam.fusion import Fusion, FusionConfig
    from rau.sam.segmenter import Segmenter

    tensors = folder.tensors(file)
    twin = copy.copy(segmenter.model)
    twin._modules = dict(segmenter.model._modules)
    decoder = copy.deepcopy(segmenter.model.sam_mask_decoder)
    decoder._forward_hooks.clear()
    twin._modules["sam_mask_decoder"] = decoder
    try:
        fusion = Fusion(FusionConfig(**config))
        changed = {k[len(DECODER) :]: v for k, v in tensors.items() if k.startswith(DECODER)}
        decoder.load_state_dict({**decoder.state_dict(), **changed})
        fusion.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(DECODER)})
    except (RuntimeError, TypeError, ValueError) as problem:
        raise ModelError(f"The fusion of {folder.manifest.name} does not fit", "Get the model again") from problem
    return fusion.eval().requires_grad_(False), Segmenter(twin.eval())
