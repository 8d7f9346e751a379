"""How memory grows with the number of slices: RAUSlicer's walk beside `sam2`'s own SAM2VideoPredictor.

Eight structures, sam2.1_hiera_tiny, the same seeded weights and slices; each walk in a process of its own. Anonymous
resident memory (RssAnon), the largest after any slice; slices are read from disk, and the labels are written there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import numpy as np

from rau.evaluation.tables import Cell, print_table

LIMIT = 0.05  # of the predictor's growth
METHODS = ("predictor", "rau")


def anonymous_mb() -> float:
    """Anonymous resident memory of this process, MB (10^6 bytes). Linux."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e6


def walk(method: str, slices: int, structures: int, size: int) -> float:
    """The most anonymous memory over the walk, MB."""
    import torch
    import walks

    from rau.assembly.labels import preview

    torch.set_num_threads(1)
    most = 0.0
    with tempfile.TemporaryDirectory() as folder:
        segmenter, predictor = walks.models(size)
        one = walks.scene(slices + 1, size, structures, folder=Path(folder))
        labels = np.lib.format.open_memmap(
            Path(folder) / "labels.npy", mode="w+", dtype=np.uint16, shape=(slices + 1, size, size)
        )
        if method == "predictor":
            del segmenter
            state = walks.predictor_state(predictor, one)
            for t, logits in enumerate(walks.predictor_walk(predictor, state)):
                labels[t] = (logits[:, 0] > 0).any(0).numpy()
                most = max(most, anonymous_mb())
        else:
            del predictor
            for found in walks.our_walk(segmenter, one, walks.Mode("exact")):
                labels[found.index + 1] = preview(found, 0.5)
                most = max(most, anonymous_mb())
    return most


def measured(method: str, slices: int, arguments: argparse.Namespace) -> float:
    """`walk` in a fresh process. Raises RuntimeError with its last line."""
    command = [sys.executable, __file__, "--walk", method, "--slices", str(slices)]
    command += ["--structures", str(arguments.structures), "--size", str(arguments.size)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return float(json.loads(done.stdout.splitlines()[-1])["mb"])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--quick", action="store_true", help="5 and 15 slices of 128 pixels, two structures")
    made.add_argument(
        "--check", action="store_true", help="exit with 1 when ours grows more than 5 % of the predictor's"
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    made.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    made.add_argument("--structures", type=int, default=8, help="structures (default 8)")
    made.add_argument("--from", dest="few", type=int, default=20, help="slices of the short walk (default 20)")
    made.add_argument("--to", dest="many", type=int, default=120, help="slices of the long walk (default 120)")
    made.add_argument("--walk", choices=METHODS, help=argparse.SUPPRESS)
    made.add_argument("--slices", type=int, help=argparse.SUPPRESS)
    return made


def main() -> int:
    arguments = parser().parse_args()
    if arguments.walk:
        print(json.dumps({"mb": walk(arguments.walk, arguments.slices, arguments.structures, arguments.size)}))
        return 0
    if arguments.quick:
        arguments.few, arguments.many, arguments.size, arguments.structures = 5, 15, 128, 2
    peaks: dict[str, dict[int, float]] = {}
    for method in METHODS:
        peaks[method] = {count: measured(method, count, arguments) for count in (arguments.few, arguments.many)}
        common.say(f"  {method}: " + ", ".join(f"{mb:.1f} MB with {n} slices" for n, mb in peaks[method].items()))
    grown = {method: one[arguments.many] - one[arguments.few] for method, one in peaks.items()}
    rows: list[list[Cell]] = [[name, *one.values(), grown[name]] for name, one in peaks.items()]
    print_table("Anonymous memory, MB", ["walk", f"{arguments.few} slices", f"{arguments.many} slices", "growth"], rows)
    share = grown["rau"] / grown["predictor"]
    common.write_json(arguments.json, {"peaks": peaks, "growth": grown, "share": share})
    common.say(
        f"from {arguments.few} to {arguments.many} slices: {grown['rau']:.1f} MB, the predictor "
        f"{grown['predictor']:.1f} MB: {100 * share:.1f} % of its growth (at most {100 * LIMIT:.0f} %)"
    )
    return int(arguments.check and not arguments.quick and share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
