"""The path of `rau-7b` at its true size on a CUDA device, with random weights: what a slice takes, and how much memory.

Writes a base of the published class with the sizes of Qwen2.5-VL-7B (16 GB, random) to a folder, reads it back through
`rau.vlm.large` in bfloat16 and in 4 bits (NF4, where bitsandbytes is there), and asks about three pictures as the
pipeline does: states of all structures in one pass, a written answer, two steps of LoRA. What it says in words means
nothing. Without CUDA, and with --quick, a base as small as the tests' takes its place.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rau.errors import RauError
from rau.evaluation.tables import Cell, print_table

NAMES = ("liver", "left kidney", "right kidney", "spleen")
WRITTEN = 32  # tokens of the answer


def timed(work: Callable[[], object], cuda: bool, repeats: int = 3) -> float:
    """Shortest of some runs after a first one, seconds."""
    import torch

    took = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        work()
        if cuda:
            torch.cuda.synchronize()
        took.append(time.perf_counter() - begin)
    return min(took[1:])


@dataclass(frozen=True)
class Measured:
    """Seconds to load, to read a dialogue of `tokens`, to write one token, for a step of LoRA; GB at most."""

    weights: str
    load: float
    tokens: int
    read: float
    write: float
    gigabytes: float | None
    step: float
    in_training: float | None
    faults: tuple[str, ...]

    def row(self) -> list[Cell]:
        used = [self.gigabytes, self.step, self.in_training]
        return [self.weights, self.load, self.tokens, self.read, self.write, *used]


def dialogues(picture: int) -> tuple[Any, Any]:
    """The same question with its answer, and without."""
    from rau.vlm.dialogue import Dialogue
    from rau.vlm.prompts import segment_answer

    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (picture, picture, 3), dtype=np.uint8) for _ in range(3))
    asked = "Segment each structure in the target."
    return Dialogue(NAMES, asked, images, segment_answer(NAMES)), Dialogue(NAMES, asked, images, None)


def gigabytes(cuda: bool) -> float | None:
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if cuda else None


def measure(folder: Path, picture: int, device: str, four_bit: bool) -> Measured:
    """One way of loading: states of all structures, a written answer, steps of LoRA."""
    import torch
    from accelerate.utils import send_to_device

    from rau.vlm.dialogue import encode
    from rau.vlm.large import LargeSettings, load_large

    cuda = device == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    chosen = LargeSettings(str(folder), picture=picture, device=device, four_bit="on" if four_bit else "off")
    loaded = load_large(chosen)
    load = time.perf_counter() - begin
    answered, asked = dialogues(picture)
    whole, open_ended = encode(loaded.processor, [answered]), encode(loaded.processor, [asked], left=True)
    inputs, question = (send_to_device(dict(one.inputs), device) for one in (whole, open_ended))
    reasoner = loaded.reasoner
    with torch.inference_mode():
        states = reasoner.read(inputs).hidden[whole.of.to(device), whole.spots.to(device)]
        read = timed(lambda: reasoner.read(inputs), cuda)
        most = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False}
        write = timed(lambda: reasoner.base.generate(**question, **most), cuda, 1)
    used = gigabytes(cuda)
    losses, step = trained(reasoner, inputs, cuda)
    faults = []
    if len(states) != len(NAMES) or not bool(torch.isfinite(states).all()):
        faults.append("the states are not one for each structure, or not finite")
    if not np.isfinite(losses).all() or losses[-1] >= losses[0]:
        faults.append("the loss did not fall")
    tokens, kind = int(inputs["input_ids"].shape[1]), "NF4" if four_bit else "bfloat16"
    return Measured(kind, load, tokens, read, (write - read) / WRITTEN, used, step, gigabytes(cuda), tuple(faults))


def trained(reasoner: Any, inputs: dict[str, Any], cuda: bool) -> tuple[list[float], float]:
    """Losses of three looks at one dialogue with two steps of LoRA between them; seconds of a step."""
    import torch

    learning = [one for one in reasoner.parameters() if one.requires_grad]
    optimiser, losses = torch.optim.AdamW(learning, 1e-3), []
    reasoner.train()
    begin = time.perf_counter()
    for step in range(3):
        ids = inputs["input_ids"]
        logits = reasoner.logits(reasoner.read(inputs).hidden[:, -9:-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -8:].flatten())
        losses.append(float(loss.detach()))
        if step < 2:
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    if cuda:
        torch.cuda.synchronize()
    return losses, (time.perf_counter() - begin) / 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small base, wherever it runs")
    parser.add_argument("--check", action="store_true", help="exit 1 where a part of the path fails")
    parser.add_argument("--folder", type=Path, help="an empty place for the base; a temporary one by default")
    parser.add_argument("--picture", type=int, default=560, help="pixels a side")
    told = parser.parse_args()
    import torch

    from rau.vlm.untrained import SEVEN, SMALL, write_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    true_size = device == "cuda" and not told.quick
    picture = told.picture if true_size else 112
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    ways = [False, *([True] if device == "cuda" and find_spec("bitsandbytes") else [])]
    results: list[Measured] = []
    with tempfile.TemporaryDirectory(dir=told.folder) as scratch:
        begin = time.perf_counter()
        base = write_base(Path(scratch, "base"), SEVEN if true_size else SMALL, device=device)
        print(f"Random base of {'7B' if true_size else 'test'} size written in {time.perf_counter() - begin:.0f} s")
        try:
            for way in ways:
                results.append(measure(base, picture, device, way))
                gc.collect()
        except RauError as problem:
            print(f"Error: {problem}", file=sys.stderr)
            return problem.exit_code
    heads = ["weights", "load s", "tokens", "read s", "s a token written", "GB", "LoRA step s", "GB in training"]
    title = f"{where}, pictures of {picture} pixels, {len(NAMES)} structures"
    print_table(title, heads, [one.row() for one in results])
    for one in results:
        for fault in one.faults:
            print(f"Fault: {one.weights}: {fault}")
    size = "7B" if true_size else "Test"
    print(f"{size} size on {where}: {results[0].read:.2f} s to read three pictures and place all states")
    return int(told.check and any(one.faults for one in results))


if __name__ == "__main__":
    sys.exit(main())
