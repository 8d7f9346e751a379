"""`rau train encoder`: the retrieval encoder learns, without labels, that two subjects look alike at one level.

Contrastive (InfoNCE): a reference slice and a target slice of the same anatomy and level attract, all other slices of
the batch repel; a batch comes from one source, so that levels of one body region must be told apart. Same data as the
segmenter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from rau.models.presets import preset
from rau.references.encoder import Encoder, build_encoder
from rau.sam.pixels import normalise
from rau.training import checkpoint, synthetic
from rau.training.batch import pictures, warped
from rau.training.data import Layout, Mixture, Source
from rau.training.sets import mixtures

LAYOUT = Layout(1, 0)


@dataclass(frozen=True)
class EncoderTraining:
    """How to train; fields as in `rau.training.segmenter.SegmenterTraining`. pairs: slice pairs a step."""

    folder: str
    preset: str = "rau-mini"
    data: str = ""
    steps: int = 3000
    pairs: int = 24
    rate: float = 5e-4
    warmup: int = 200
    temperature: float = 0.1
    every: int = 500
    seed: int = 0
    anatomies: int = 1200
    minutes: float = 0.0


def slice_pairs(source: Source, seed: tuple[int, ...], pairs: int, size: int) -> torch.Tensor:
    """(pairs, 2, 3, size, size) in 0 to 1: reference and target slices of one level of two subjects."""
    rng = np.random.default_rng(list(seed))
    dice = synthetic.Dice(int(rng.integers(2**62)))
    tasks = [source.draw(rng, LAYOUT) for _ in range(pairs)]
    grids = warped(tasks, LAYOUT, size, dice)
    labels = synthetic.sample_labels(torch.from_numpy(np.concatenate([t.labels for t in tasks])), grids)
    return pictures(tasks, labels, grids, LAYOUT, False, dice).view(pairs, 2, 3, size, size)


def embed(encoder: Encoder, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit descriptors (pairs, D) of references and of targets."""
    tokens = F.normalize(encoder.tokens(normalise(images.flatten(0, 1))), dim=1)
    both = tokens.view(len(images), 2, -1)
    return both[:, 0], both[:, 1]


def contrast(reference: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """Symmetric InfoNCE of (pairs, D) and (pairs, D)."""
    scores = reference @ target.T / temperature
    truth = torch.arange(len(scores))
    return 0.5 * (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth))


@torch.no_grad()
def validate(encoder: Encoder, source: Mixture, pairs: int = 24, batches: int = 4) -> dict[str, float]:
    """For each source: how often the right one of `pairs` slices is the most similar (chance: 1 / pairs)."""
    encoder.model.eval()
    scores = {}
    for name, _, one in source.sources:
        right = []
        for i in range(batches):
            reference, target = embed(encoder, slice_pairs(one, (99, i), pairs, encoder.size))
            right.append((target @ reference.T).argmax(1) == torch.arange(pairs))
        scores[name] = torch.cat(right).float().mean().item()
    encoder.model.train()
    return scores


def train(settings: EncoderTraining) -> Iterator[dict[str, float]]:
    """Train, yielding the validation scores every so often. Resumes from the folder's state."""
    torch.manual_seed(settings.seed)
    folder, chosen = Path(settings.folder), preset(settings.preset)
    folder.mkdir(parents=True, exist_ok=True)
    model = build_encoder(chosen.encoder).train()
    encoder, state = Encoder(model, chosen.encoder_size), folder / "state.safetensors"
    optimiser = torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=0.05)
    progress = checkpoint.load(state, model, optimiser) if state.exists() else checkpoint.start(model)
    data = Path(settings.data) if settings.data else None
    sources = mixtures(data, settings.seed, folder / "cache", settings.anatomies)
    weights = np.array([weight for _, weight, _ in sources.encoder.sources])
    begin, before = time.time(), progress.seconds
    while progress.step < settings.steps:
        step = progress.step
        rng = np.random.default_rng([settings.seed, step, 11])
        source = sources.encoder.sources[int(rng.choice(len(weights), p=weights / weights.sum()))][2]
        cosine = 0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * step / settings.steps))
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * min(1.0, (step + 1) / settings.warmup) * cosine
        images = slice_pairs(source, (settings.seed, step), settings.pairs, encoder.size)
        loss = contrast(*embed(encoder, images), settings.temperature)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        progress.update(model)
        progress.losses.append(loss.item())
        progress.seconds = before + time.time() - begin
        out_of_time = bool(settings.minutes) and time.time() - begin > settings.minutes * 60
        if progress.step % settings.every == 0 or progress.step == settings.steps or out_of_time:
            averaged = build_encoder(chosen.encoder)
            averaged.load_state_dict(progress.mean)
            scores: dict[str, float] = {
                "step": progress.step,
                "seconds": round(progress.seconds),
                "loss": float(np.mean(progress.losses[-200:])),
            }
            scores.update(validate(Encoder(averaged, chosen.encoder_size), sources.validation))
            checkpoint.append(folder / "validation.csv", {k: round(float(v), 4) for k, v in scores.items()})
            checkpoint.plot(folder, label="right slice found, of 24")
            checkpoint.save(state, model, optimiser, progress, asdict(settings))
            yield scores
        if out_of_time:
            return
