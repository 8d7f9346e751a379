"""The bundled model on CUDA against the CPU: the same synthetic patient, the same label map, and how long each takes.

On a machine without CUDA it says so and ends well.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from rau.errors import RauError
from rau.evaluation.metrics import dice_of_structures
from rau.evaluation.tables import print_table
from rau.models.engine import load_engine
from rau.pipeline import segment
from rau.settings import SegmentSettings
from rau.training.patient import patient_pair

ALIKE = 0.98  # Dice between both devices, each structure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="auto", help="as in `rau segment`")
    model = parser.parse_args().model
    import torch

    if not torch.cuda.is_available():
        print("No CUDA device here: nothing to compare")
        return 0
    reference, (target, _) = patient_pair(seed=0, shape=(24, 128, 128))
    results, rows = {}, []
    try:
        for device in ("cpu", "cuda"):
            settings = SegmentSettings(model=model, device=device)
            engine = load_engine(settings)
            for run in ("first", "second"):
                start = time.perf_counter()
                results[device] = segment([reference], target, settings, engine=engine).labels
                rows.append([f"{device}, {run} run", time.perf_counter() - start])
    except RauError as problem:
        print(f"Error: {problem}", file=sys.stderr)
        return problem.exit_code
    print_table(torch.cuda.get_device_name(), ["device", "s"], rows)
    alike = dice_of_structures(results["cpu"], results["cuda"], reference.structures)
    print_table("Agreement of CUDA with the CPU", ["structure", "Dice"], list(alike.items()))
    same = float(np.mean(results["cpu"].array == results["cuda"].array))
    worst = min((score for score in alike.values() if score is not None), default=1.0)
    print(f"{same:.4%} of the voxels agree, lowest Dice {worst:.3f}")
    return int(worst < ALIKE)


if __name__ == "__main__":
    sys.exit(main())
