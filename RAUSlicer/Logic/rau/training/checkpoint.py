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
    """step: optimiser steps done. seconds: training time. mean: running mean of the weights, by name."""

    mean: dict[str, torch.Tensor]
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def update(self, model: torch.nn.Module, decay: float = 0.999) -> None:
        """Move the running mean towards the weights; faster in the first steps."""
        decay = min(decay, (self.step + 1) / (self.step + 20))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.mean[key].lerp_(value, 1 - decay)
            else:
                self.mean[key].copy_(value)
        self.step += 1


def start(model: torch.nn.Module) -> Progress:
    return Progress({k: v.detach().clone() for k, v in model.state_dict().items()})


def save(
    path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer, progress: Progress, settings: Any
) -> None:
    """Write the state whole (a temporary file, then rename). settings: anything JSON, kept beside for the record."""
    from safetensors.torch import save_file

    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors.update({f"mean.{k}": v for k, v in progress.mean.items()})
    for i, parameter in enumerate(model.parameters()):
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{i}.{key}"] = value
    info = {"step": str(progress.step), "seconds": str(progress.seconds), "settings": json.dumps(settings)}
    part = path.with_suffix(".part")
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, part, info)
    os.replace(part, path)


def load(path: Path, model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> Progress:
    """Put weights and optimiser back as they were; gives the progress."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        info = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a safetensors handle is no mapping)
    model.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for i, parameter in enumerate(model.parameters()):
        prefix = f"optimiser.{i}."
        state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimiser.state[parameter] = state
    mean = {k[5:]: v for k, v in tensors.items() if k.startswith("mean.")}
    return Progress(mean, int(info["step"]), float(info["seconds"]))


def averaged_weights(path: Path) -> dict[str, torch.Tensor]:
    """The running mean of the weights in a state file: what is shipped."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {k[5:]: file.get_tensor(k) for k in file.keys() if k.startswith("mean.")}  # noqa: SIM118


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
