"""The state of a training run as one safetensors file: weights, their running mean, optimiser, progress."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass
class Progress:
    """step: optimiser steps done. seconds: training time. mean: running mean of the weights, by name.

    best: highest validation score, of the step best_step. stale: validations since.
    """

    mean: dict[str, torch.Tensor]
    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    stale: int = 0
    losses: list[float] = field(default_factory=list)

    def update(self, model: torch.nn.Module, decay: float = 0.999) -> None:
        """Move the running mean towards the weights; faster in the first steps."""
        from torch.optim.swa_utils import get_ema_multi_avg_fn

        decay, now = min(decay, (self.step + 1) / (self.step + 20)), model.state_dict()
        moving = [key for key, value in now.items() if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)([self.mean[key] for key in moving], [now[key] for key in moving], self.step)
        for key in now.keys() - set(moving):
            self.mean[key].copy_(now[key])
        self.step += 1

    def validated(self, score: float) -> bool:
        """Take note of a validation; whether it is the best so far."""
        better = score > self.best
        if better:
            self.best, self.best_step = score, self.step
        self.stale = 0 if better else self.stale + 1
        return better


def start(model: torch.nn.Module) -> Progress:
    return Progress({k: v.detach().clone() for k, v in model.state_dict().items()})


def write(path: Path, tensors: Mapping[str, torch.Tensor], info: dict[str, str]) -> None:
    """Write a safetensors file whole: a temporary file, then rename."""
    from safetensors.torch import save_file

    part = path.with_suffix(".part")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, part, info)
    os.replace(part, path)


def learnt(prefix: str, module: torch.nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights of a module and what the optimiser keeps of each; the inverse of `put_back`."""
    tensors = {f"{prefix}model.{k}": v for k, v in module.state_dict().items()}
    for i, parameter in enumerate(module.parameters()):
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"{prefix}optimiser.{i}.{key}"] = value
    return tensors


def put_back(
    prefix: str, tensors: Mapping[str, torch.Tensor], module: torch.nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    def under(start: str) -> dict[str, torch.Tensor]:
        return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}

    module.load_state_dict(under(f"{prefix}model."))
    for i, parameter in enumerate(module.parameters()):
        state = under(f"{prefix}optimiser.{i}.")
        if state:
            optimiser.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}


def save(
    path: Path,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    settings: Any,
    head: torch.nn.Module | None = None,
) -> None:
    """Write the state whole. settings: anything JSON, kept beside for the record. head: trained along, never shipped.

    The file's metadata hold the numbers of `Progress` and the settings.
    """
    tensors = learnt("", model, optimiser)
    tensors.update({f"mean.{k}": v for k, v in progress.mean.items()})
    if head is not None:
        tensors.update(learnt("head.", head, optimiser))
    numbers = {name: getattr(progress, name) for name in ("step", "seconds", "best", "best_step", "stale")}
    info = {name: str(value) for name, value in numbers.items()}
    write(path, tensors, {**info, "settings": json.dumps(settings)})


def load(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, head: torch.nn.Module | None = None
) -> Progress:
    """Put weights and optimiser back as they were (a head stays new where the state has none); gives the progress."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        info = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors handle is no mapping)
    put_back("", tensors, model, optimiser)
    if head is not None and any(key.startswith("head.") for key in tensors):
        put_back("head.", tensors, head, optimiser)
    device = next(model.parameters()).device
    mean = {k[5:]: v.to(device) for k, v in tensors.items() if k.startswith("mean.")}
    progress = Progress(mean, int(info["step"]), float(info["seconds"]))
    progress.best, progress.best_step = float(info.get("best", -1.0)), int(info.get("best_step", 0))
    progress.stale = int(info.get("stale", 0))
    return progress


def info_of(path: Path) -> dict[str, str]:
    """The metadata of a state: the numbers of `Progress`, and "settings" as JSON."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def settings_of(path: Path) -> dict[str, Any]:
    """The settings kept in a state."""
    return dict(json.loads(info_of(path)["settings"]))


def averaged_weights(path: Path) -> dict[str, torch.Tensor]:
    """The running mean of the weights in a state file, or in a file of the best ones."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {k[5:]: file.get_tensor(k) for k in file.keys() if k.startswith("mean.")}  # noqa: SIM118


def save_best(path: Path, progress: Progress) -> None:
    """Keep the running mean of now as the best weights so far."""
    info = {"step": str(progress.best_step), "best": str(progress.best)}
    write(path, {f"mean.{k}": v for k, v in progress.mean.items()}, info)


def append(path: Path, row: Mapping[str, float]) -> None:
    """One line more in a CSV file, with a header when it is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def plot(
    folder: Path, hidden: tuple[str, ...] = ("step", "seconds", "loss", "size"), label: str = "validation"
) -> None:
    """curves.png from validation.csv: a line for each column that is not hidden and no baseline ("... copied")."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with (folder / "validation.csv").open() as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in rows[0]:
        if name not in hidden and not name.endswith("copied"):
            axes.plot([float(r["step"]) for r in rows], [float(r[name]) for r in rows], label=name, marker=".")
    axes.set(xlabel="step", ylabel=label, ylim=(0, 1))
    axes.legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=110)
    plt.close(figure)
