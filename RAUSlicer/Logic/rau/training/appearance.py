"""New appearances for a batch of label maps, on torch: contrast, texture, colour, and what scanners do to a picture.

Axes: N frames (slices) of B tasks, S pixels a side. `of`: (N,) long, the task of each frame: frames of a task are of
one modality. Everything random comes from one `Dice`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rau.training.anatomy import TISSUE, Style
from rau.training.synthetic import Dice

TABLE = 256  # label values of a frame: below this


@dataclass(frozen=True)
class Look:
    """How a style is rendered. colour, speckle, rim, vignette: chances; rim: like brightness, bright borders.

    relief: least and greatest weight of the brightness on top of the labels. absorb: of red, green and blue by each of
    two dyes. means: (label values, lowest, highest brightness) where not any brightness will do.
    """

    colour: float
    speckle: float
    rim: float
    vignette: float
    relief: tuple[float, float]
    absorb: tuple[tuple[float, float, float], tuple[float, float, float]] = ((0.8, 0.8, 0.8), (0.6, 0.6, 0.6))
    means: tuple[tuple[tuple[int, ...], float, float], ...] = ()


T = TISSUE
LOOKS = {
    Style.PLAIN: Look(0.03, 0.06, 0.06, 0.05, (0.0, 0.3)),
    Style.STAIN: Look(
        0.9, 0.0, 0.03, 0.2, (0.3, 0.8), ((1.7, 2.0, 0.6), (0.2, 1.1, 0.7)),
        (((T,), 0.8, 1.0), ((T + 1,), 0.45, 0.8), ((1,), 0.35, 0.85), ((2,), 0.0, 0.35), ((T + 2,), 0.0, 0.4)),
    ),
    Style.FUNDUS: Look(
        0.75, 0.0, 0.0, 0.9, (0.3, 0.8), ((0.7, 1.6, 2.8), (0.1, 0.3, 0.4)),
        (((T,), 0.45, 0.6), ((4, 5), 0.05, 0.4), ((2, T + 1), 0.7, 0.9), ((3, T + 2), 0.85, 1.1), ((0,), 0.0, 0.0)),
    ),
    Style.XRAY: Look(
        0.0, 0.0, 0.0, 0.3, (0.6, 1.3), means=(((0,), 0.0, 0.05), ((T,), 0.3, 0.5), (tuple(range(1, 6)), 0.1, 0.75))
    ),
    Style.ULTRASOUND: Look(
        0.0, 0.97, 0.1, 0.1, (0.6, 1.4),
        means=(((0,), 0.0, 0.0), ((T, T + 1, T + 2, T + 3), 0.1, 0.5), ((1, 2, 3), 0.02, 0.5)),
    ),
    Style.GLOW: Look(
        0.0, 0.2, 0.0, 0.3, (0.3, 0.9),
        means=(((T,), 0.1, 0.35), ((1,), 0.45, 1.0), ((2,), 0.0, 0.15), ((T + 1,), 0.3, 0.5))
    ),
}  # fmt: skip


def brightness_ranges() -> torch.Tensor:
    """(styles, 2, TABLE): lowest and highest mean brightness of each label value."""
    ranges = torch.zeros(len(LOOKS), 2, TABLE)
    ranges[:, 1] = 1
    for style, look in LOOKS.items():
        for values, low, high in look.means:
            ranges[style, :, list(values)] = torch.tensor([[low], [high]])
    return ranges


def chance_of(dice: Dice, styles: torch.Tensor, field: str) -> torch.Tensor:
    """(B,) bool: drawn with each task's chance in its `Look`."""
    return dice.uniform(0, 1, len(styles)) < torch.tensor([getattr(LOOKS[s], field) for s in Style])[styles]


def contrasts(dice: Dice, styles: torch.Tensor, alike: float = 0.3) -> torch.Tensor:
    """(n, TABLE) mean brightness of each material for styles (n,): random within the style's ranges.

    alike: chance that plain tissues share few brightnesses. Half of the plain pictures are dark outside.
    """
    n = len(styles)
    low, high = brightness_ranges()[styles].unbind(1)
    means = low + dice.uniform(0, 1, n, TABLE) * (high - low)
    few = (dice.uniform(0, 1, n, TABLE) * 4).floor() / 4 + dice.normal(n, TABLE) * 0.03
    plain = (styles == int(Style.PLAIN))[:, None]
    means = torch.where(dice.chance(alike, n, 1) & plain, few, means)
    dark = dice.chance(0.6, n) & plain[:, 0]
    means[:, 0] = torch.where(dark, torch.zeros(n), means[:, 0])
    return means


def grain(dice: Dice, n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fine and coarse texture, each (n, size, size) of about unit deviation."""
    fine = dice.normal(n, size, size) * 0.5 + dice.smooth(n, 1, size // 3, size)[:, 0] * 0.9
    return fine, dice.smooth(n, 1, max(4, size // 10), size)[:, 0]


def render(dice: Dice, labels: torch.Tensor, means: torch.Tensor, textures: torch.Tensor) -> torch.Tensor:
    """A picture of each label map. labels: (N, S, S); means: (N, TABLE) brightness; textures: (N, TABLE) strength of
    the texture, or (N, 2, TABLE) of the fine and of the coarse one. Borders are mixed as by partial volume.
    """
    n, size = labels.shape[0], labels.shape[1]
    flat = labels.flatten(1)
    textures = textures if textures.dim() == 3 else torch.stack([textures, textures], 1) * 0.6
    image = blur(means.gather(1, flat).view(n, size, size), 0.6)
    for strength, field in zip(textures.unbind(1), grain(dice, n, size)):
        image = image + strength.gather(1, flat).view(n, size, size) * field
    return image


def rims(labels: torch.Tensor) -> torch.Tensor:
    """(N, S, S): about 1 on the borders between labels, some two pixels wide, else 0."""
    edge = torch.zeros(labels.shape)
    edge[:, 1:] += labels[:, 1:] != labels[:, :-1]
    edge[:, :, 1:] += labels[:, :, 1:] != labels[:, :, :-1]
    return (blur(edge.clamp(max=1), 1.0) * 2).clamp(max=1)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian of `sigma` pixels over (N, S, S)."""
    radius = max(1, math.ceil(2.5 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for dim in (1, 2):  # shifted sums: several times as fast as conv2d of one channel
        index = torch.arange(-radius, images.shape[dim] + radius, device=images.device).clamp(0, images.shape[dim] - 1)
        padded, size = images.index_select(dim, index), images.shape[dim]
        images = padded.narrow(dim, 0, size) * kernel[0]
        for k in range(1, len(kernel)):
            images.add_(padded.narrow(dim, k, size), alpha=float(kernel[k]))
    return images


def ringing(images: torch.Tensor, keep: float) -> torch.Tensor:
    """Gibbs ringing over (N, S, S): frequencies above `keep` of the highest are cut off."""
    size = images.shape[1]
    spectrum = torch.fft.rfft2(images)
    spectrum[:, torch.fft.fftfreq(size).abs() > keep / 2] = 0
    spectrum[:, :, torch.fft.rfftfreq(size) > keep / 2] = 0
    return torch.fft.irfft2(spectrum, s=(size, size))


def coarse(images: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """(N, S, S) sampled at rows x columns pixels and stretched back."""
    small = F.interpolate(images[:, None], size=(rows, columns), mode="area")
    return F.interpolate(small, size=images.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def speckle(dice: Dice, images: torch.Tensor) -> torch.Tensor:
    """Ultrasound-like over (N, S, S): multiplicative grain wider than deep, logarithm, shadows from the top."""
    n, size = images.shape[0], images.shape[1]
    field = F.avg_pool2d(dice.normal(n, 2, size, size), (3, 5), stride=1, padding=(1, 2)) * 3.8
    amplitude = (field.pow(2).sum(1) / 2).sqrt()
    shadow = torch.sigmoid(4 * (dice.normal(n, 1, 9) + 1.4))
    shadow = F.interpolate(shadow, size=size, mode="linear", align_corners=True)
    fade = torch.linspace(0, 1, size)[None, :, None]
    seen = images * (0.3 + 0.7 * amplitude) * (1 - fade * (1 - shadow))
    return torch.log1p(8 * seen.clamp(min=0))


def vignette(dice: Dice, images: torch.Tensor) -> torch.Tensor:
    """(N, S, S) darkened towards the corners around a middle that need not be the picture's."""
    n, size = images.shape[0], images.shape[1]
    line = torch.linspace(-1, 1, size)
    y, x = line[None, :, None] - dice.normal(n, 1, 1) * 0.2, line[None, None] - dice.normal(n, 1, 1) * 0.2
    return images * (1 - dice.uniform(0.2, 0.6, n, 1, 1) * (y**2 + x**2) / 2).clamp(min=0)


def stretch(images: torch.Tensor) -> torch.Tensor:
    """(N, S, S) to 0 to 1 between the 0.5 and 99.5 percentiles of a coarse sample of the pixels."""
    flat = images[:, ::4, ::4].flatten(1)
    low, high = torch.quantile(flat, torch.tensor([0.005, 0.995]), dim=1)[:, :, None, None]
    return ((images - low) / (high - low + 1e-4)).clamp(0, 1)


def resolution(dice: Dice, images: torch.Tensor, pick: torch.Tensor) -> torch.Tensor:
    """Blur, ringing or few pixels for those of (N, S, S) whose pick (N,) in 0 to 1 says so."""
    size = images.shape[1]
    keep, rows, columns = (float(v) for v in dice.uniform(0, 1, 3))
    effects = (
        (0.30, 0.48, lambda x: blur(x, 0.8)),
        (0.48, 0.62, lambda x: blur(x, 1.5)),
        (0.62, 0.74, lambda x: ringing(x, 0.3 + 0.35 * keep)),
        (0.74, 1.01, lambda x: coarse(x, int(size / (1.5 + 2.5 * rows)), int(size / (1.5 + 2.5 * columns)))),
    )
    for low, high, effect in effects:
        chosen = (pick > low) & (pick <= high)
        if chosen.any():
            images[chosen] = effect(images[chosen])
    return images


def degrade(
    dice: Dice,
    images: torch.Tensor,
    strength: torch.Tensor,
    of: torch.Tensor | None = None,
    speckled: torch.Tensor | None = None,
    shaded: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scanner effects on (N, S, S): bias field, speckle, gamma, resolution, noise, then back to 0 to 1.

    strength: (N,), 1 for rendered pictures, less for real ones. speckled, shaded: (N,) bool, ultrasound and vignetting.
    The percentile stretch is that of `rau.volume.window`.
    """
    n, size = images.shape[0], images.shape[1]
    of = torch.arange(n) if of is None else of
    tasks = int(of.max()) + 1
    s = strength[:, None, None]
    images = stretch(images) * torch.exp(dice.smooth(n, 1, 4, size)[:, 0] * 0.15 * s)
    for chosen, effect in ((speckled, speckle), (shaded, vignette)):
        if chosen is not None and chosen.any():
            images[chosen] = effect(dice, images[chosen])
    tone = dice.normal(tasks, 1, 1)[of] * 0.28 + dice.normal(n, 1, 1) * 0.12
    images = stretch(images) ** torch.exp(tone * s)
    images = resolution(dice, images, dice.uniform(0, 1, tasks)[of] * strength)
    noise = 0.09 * dice.uniform(0, 1, tasks, 1, 1)[of] ** 2 * torch.exp(dice.normal(n, 1, 1) * 0.2) * s
    return (images + noise * dice.normal(n, size, size)).clamp(0, 1)


def dyed(dice: Dice, first: torch.Tensor, second: torch.Tensor, styles: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """(N, 3, S, S) colour pictures: two dyes that swallow light where `first` and `second` (N, S, S) are dark.

    styles: (B,); of: (N,). Frames of a task share their dyes but for a little, so that the palette is coherent.
    """
    tasks = len(styles)
    absorb = torch.tensor([LOOKS[s].absorb for s in Style])[styles]
    plain = (styles == int(Style.PLAIN))[:, None, None]
    absorb = absorb * torch.exp(dice.normal(tasks, 2, 3) * torch.where(plain, 0.9, 0.2))
    absorb = absorb[of] * torch.exp(dice.normal(len(of), 2, 3) * 0.06)
    light = 1 - dice.uniform(0, 0.12, tasks, 3)[of]
    density = absorb[:, 0, :, None, None] * (1 - first[:, None]) + absorb[:, 1, :, None, None] * (1 - second[:, None])
    return light[:, :, None, None] * torch.exp(-density)
