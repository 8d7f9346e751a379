"""The expert: a small perceptron on the features of a pixel, trained on the references alone, in a second.

It weighs appearance against position as the references themselves suggest: in training the places are as wrong as
registration is expected to be, so a vessel is told by its looks and one of two kidneys by its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rau.adaptation.features import filter_bank, position_code
from rau.adaptation.views import Sheets, doubted, views_of

if TYPE_CHECKING:
    import torch

    from rau.adaptation.pixel_encoder import Look, PixelEncoder

HIDDEN = 64
RANGE = 6.0  # deviations from the mean beyond which a feature is cut off
STRIDE = 997  # rows of `kept_units` from one step to the next


@dataclass(frozen=True)
class Training:
    """How to train. views: deformed slices (beside the given ones, when few). samples: pixels of each view.

    balance: 0 weighs every pixel of the picture alike, 1 every structure. doubt: see `rau.adaptation.views.doubt_of`.
    """

    views: int = 16
    samples: int = 3000
    steps: int = 150
    batch: int = 1024
    rate: float = 5e-3
    decay: float = 1e-3
    dropout: float = 0.1
    balance: float = 0.7
    doubt: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Expert:
    """A trained expert of K structures. columns: which of the features of a pixel it sees; None: all."""

    network: torch.nn.Module
    mean: torch.Tensor
    deviation: torch.Tensor
    structures: int
    columns: torch.Tensor | None = None

    def predict(self, images: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """(B, C, S, S) images and (B, S, S, 3) places -> probabilities (B, K, S, S)."""
        return self.told(pixels(images, places), images.shape[-1])

    def told(self, features: torch.Tensor, side: int) -> torch.Tensor:
        """The same from the features of the pixels, (B, side * side, D)."""
        import torch

        with torch.inference_mode():
            found = []
            for one in features if self.columns is None else features[..., self.columns]:
                scaled = ((one - self.mean) / self.deviation).clamp(-RANGE, RANGE)
                found.append(self.network(scaled).softmax(-1)[:, 1:].T)
            return torch.stack(found).view(len(features), self.structures, side, side)


def pixels(
    images: torch.Tensor, places: torch.Tensor, look: Look | None = None, some: torch.Tensor | None = None
) -> torch.Tensor:
    """Features of every pixel: (B, S * S, D): filters, place, and learnt ones where there is a look. some: of these
    pixels, (M,) indices, alone: (B, M, D)."""
    import torch

    chosen = slice(None) if some is None else some
    seen = [filter_bank(images).flatten(2)[..., chosen].transpose(1, 2)]
    seen.append(position_code(places.flatten(1, 2)[:, chosen]))
    if look is not None:
        seen.append(look.features.flatten(2)[..., chosen].transpose(1, 2))
    return torch.cat(seen, 2)


@dataclass(frozen=True)
class Samples:
    """Pixels to train on: (M, D) features as `pixels` has them, (M,) labels and weights; state: of the generator."""

    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    state: torch.Tensor


def drawn(
    labels: torch.Tensor, count: int, structures: int, how: Training, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of `count` of the pixels `labels` (M,), half at random, half from all structures alike; their weights."""
    import torch

    counts = torch.bincount(labels, minlength=structures + 1).float()
    share = torch.where(counts > 0, 1 / counts.clamp(min=1), 0.0)[labels]
    share = (share / share.sum()).numpy().astype(np.float64)
    seed = int(torch.randint(2**31, (1,), generator=generator))
    rng = np.random.default_rng(seed)
    alike = np.searchsorted(np.cumsum(share), rng.random(count - count // 2) * share.sum())
    index = np.concatenate([rng.integers(len(share), size=count // 2), alike.clip(0, len(share) - 1)])
    chance = 0.5 / len(share) + 0.5 * share[index]
    weight = (1 / (len(share) * chance)) ** (1 - how.balance)
    return torch.from_numpy(index), torch.from_numpy((weight / weight.mean()).astype(np.float32))


def perceptron(features: int, classes: int) -> torch.nn.Sequential:
    from torch import nn

    first = [nn.Linear(features, HIDDEN), nn.GELU()]
    return nn.Sequential(*first, nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, classes))


def train_expert(sheets: Sheets, structures: int, how: Training) -> Expert:
    """Train on views of `sheets`. The amount of work is fixed, the result the same for the same seed."""
    return fitted(samples_of(sheets, structures, how), structures, how)


def fitted(samples: Samples, structures: int, how: Training, columns: torch.Tensor | None = None) -> Expert:
    """Train on pixels; columns: of the features that the expert sees, all unless told."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(how.seed)
        generator = torch.Generator()
        generator.set_state(samples.state.clone())
        features = (samples.features if columns is None else samples.features[:, columns]).clone()
        mean, deviation = features.mean(0), features.std(0) + 1e-5
        features = ((features - mean) / deviation).clamp(-RANGE, RANGE)
        network = perceptron(features.shape[1], structures + 1)
        fit(network, features, samples.labels.clone(), samples.weights.clone(), how, generator)
    return Expert(network.eval().requires_grad_(False), mean, deviation, structures, columns)


def samples_of(sheets: Sheets, structures: int, how: Training, encoder: PixelEncoder | None = None) -> Samples:
    """Pixels from the slices as they are and from views of them. encoder: of learnt features beside the others."""
    import torch

    generator = torch.Generator().manual_seed(how.seed)
    with torch.no_grad():
        views = views_of(sheets, how.views, generator)
        given = min(len(sheets), max(1, how.views // 4))
        plain = sheets.pick(torch.linspace(0, len(sheets) - 1, given).round().long())
        parts = []
        for one in (plain, views):
            places = doubted(one.places, how.doubt, generator)
            for k in range(len(one)):
                index, weight = drawn(one.labels[k].flatten(), how.samples, structures, how, generator)
                image = one.images[k : k + 1]
                look = None if encoder is None else encoder.look(image)
                x = pixels(image, places[k : k + 1], look, index)[0]
                parts.append((x, one.labels[k].flatten()[index], weight))
        features, labels, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return Samples(features, labels, weights, generator.get_state())


def fit(
    network: torch.nn.Sequential,
    features: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    how: Training,
    generator: torch.Generator,
) -> None:
    """AdamW on the weighted cross entropy, with a warm-up and a cosine; units of the first layer are dropped."""
    import torch
    import torch.nn.functional as F

    optimiser = torch.optim.AdamW(network.parameters(), how.rate, weight_decay=how.decay, fused=True)
    seen, told = network[:2], network[2:]
    kept = kept_units(how) if how.dropout else None
    for step in range(how.steps):
        fall = 0.05 + 0.475 * (1 + np.cos(np.pi * step / how.steps))
        optimiser.param_groups[0]["lr"] = how.rate * min(1.0, (step + 1) / 10) * fall
        some = torch.randint(len(features), (how.batch,), generator=generator)
        units = seen(features.index_select(0, some))
        if kept is not None:
            first = step * STRIDE % (len(kept) - how.batch)
            units = units * kept[first : first + how.batch]
        scores = told(units).T.contiguous()[None]  # classes first: several times as fast
        loss = (F.cross_entropy(scores, labels[some][None], reduction="none")[0] * weights[some]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def kept_units(how: Training) -> torch.Tensor:
    """(4 * batch, HIDDEN) factors of dropout, drawn once: every step takes `batch` rows of them from another place on.

    To draw anew at every step took a fifth of the training's time.
    """
    import torch

    return (torch.rand(4 * how.batch, HIDDEN) >= how.dropout).float() / (1 - how.dropout)
