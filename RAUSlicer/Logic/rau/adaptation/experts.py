"""The experts of one reference: perceptrons, and closed forms on learnt features. Each counts as far as it is trusted.

How far is told, structure by structure, by views of the reference that none was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rau.adaptation.expert import Expert, Training, fitted, pixels, samples_of
from rau.adaptation.views import Sheets, doubted, views_of

if TYPE_CHECKING:
    import torch

    from rau.adaptation.pixel_encoder import PixelEncoder, Taught

CHECKS = 2  # views on which experts are tried
SHARPNESS = 12.0  # of the shares, by trust; this and what follows by validation tasks
DOUBTED = 1.6  # times what registration is doubted by, for the closed form
PLAIN = 0.15  # doubt of places that are not registered, half squares; in training no pair is


@dataclass(frozen=True)
class Experts:
    """Experts of K structures: perceptrons, and closed forms for places by registration (laid) and without (plain).

    shares: (members, K), of each structure 1 in all. trust: (K,) Dice of all together on the views that tell the
    shares; NaN where they do not show a structure. encoder: of learnt features; None: no member needs any.
    """

    perceptrons: tuple[Expert, ...]
    laid: tuple[Taught, ...]
    plain: tuple[Taught, ...]
    structures: int
    encoder: PixelEncoder | None
    shares: np.ndarray
    trust: np.ndarray

    def each(self, images: torch.Tensor, places: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """images: (B, C, S, S); places by registration and without: (B, S, S, 3). Gives (members, B, K, S, S)."""
        import torch

        look = None if self.encoder is None else self.encoder.look(images)
        features = pixels(images, places, look)
        found = [one.told(features, images.shape[-1]) for one in self.perceptrons]
        if look is not None:
            found += [one.predict(look, places) for one in self.laid]
            found += [one.predict(look, plain) for one in self.plain]
        return torch.stack(found)

    def predict(self, images: torch.Tensor, places: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """(B, K, S, S) probabilities, as `each` weighed by the shares."""
        import torch

        shares = torch.from_numpy(self.shares.astype(np.float32))
        return torch.einsum("mbkij,mk->bkij", self.each(images, places, plain), shares)


def train_experts(
    sheets: Sheets, structures: int, how: Training, encoder: PixelEncoder | None = None, registered: bool = False
) -> Experts:
    """Train on `sheets` and try what was trained. registered: whether the target's places are.

    With an encoder there is a perceptron that sees its features too, and the closed form, with places as registration
    gives them (if it does) and without.
    """
    samples = samples_of(sheets, structures, how, encoder)
    laid: list[Taught] = []
    plain: list[Taught] = []
    if encoder is None:
        perceptrons = [fitted(samples, structures, how)]
    else:
        import torch

        from rau.adaptation.pixel_encoder import taught

        filters = torch.arange(samples.features.shape[1] - int(encoder.config["features"]))
        perceptrons = [fitted(samples, structures, how, filters), fitted(samples, structures, how)]
        *laid, last = taught(
            encoder, sheets, structures, [DOUBTED * how.doubt, PLAIN] if registered else [PLAIN], how.seed
        )
        plain = [last]
    count = len(perceptrons) + len(laid) + len(plain)
    alike, unknown = np.full((count, structures), 1 / count), np.full(structures, np.nan)
    experts = Experts(tuple(perceptrons), tuple(laid), tuple(plain), structures, encoder, alike, unknown)
    return tried(experts, sheets, how)


def tried(experts: Experts, sheets: Sheets, how: Training) -> Experts:
    """The experts with shares and trust from views that they were not trained on."""
    import torch

    from rau.adaptation.guide import centres

    generator = torch.Generator().manual_seed(how.seed + 7919)
    views = views_of(sheets.pick(richest(sheets.labels, experts.structures)), CHECKS, generator)
    here = centres(views.images.shape[-1]).expand(len(views), -1, -1, -1)
    plain = torch.cat([views.places[..., :1], here], 3)
    found = experts.each(views.images, doubted(views.places, how.doubt, generator), plain)
    trust = np.stack([agreement(one, views.labels) for one in found])
    scores = np.exp(SHARPNESS * np.nan_to_num(trust, nan=0.5))
    shares = scores / scores.sum(0)
    joined = torch.einsum("mbkij,mk->bkij", found, torch.from_numpy(shares.astype(np.float32)))
    return replace(experts, shares=shares, trust=agreement(joined, views.labels))


def richest(labels: torch.Tensor, structures: int) -> torch.Tensor:
    """Of labelled slices, (N, S, S) 0 or 1 + the structure's number: the indices, (M,), of those to try experts on.

    CHECKS of them, or all of fewer: one after the other what adds most to the largest share shown of each structure.
    """
    import torch

    shown = torch.stack([(labels == k + 1).flatten(1).sum(1) for k in range(structures)], 1).float()
    shown = shown / shown.amax(0).clamp(min=1)
    chosen: list[int] = []
    seen = torch.zeros(structures)
    for _ in range(min(CHECKS, len(labels))):
        gained = torch.maximum(shown, seen).sum(1)
        gained[chosen] = -1
        chosen.append(int(gained.argmax()))
        seen = torch.maximum(seen, shown[chosen[-1]])
    return torch.tensor(chosen)


def agreement(found: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """(K,) Dice of (B, K, S, S) probabilities and labels (B, S, S), 1 + the structure's number; NaN where none is."""
    scores = np.full(found.shape[1], np.nan)
    for k in range(found.shape[1]):
        truth, here = labels == k + 1, found[:, k] > 0.5
        if truth.any():
            scores[k] = float(2 * (here & truth).sum() / (here.sum() + truth.sum()))
    return scores
