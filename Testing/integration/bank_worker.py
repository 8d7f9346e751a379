"""A process that writes to a bank until it is killed: one line on its output for each thing that is done for good.

`python bank_worker.py BANK ROUNDS SEED` starts ROUNDS such processes, one after another, and kills each at a random
moment, later on a slow machine. It forks them, so that the packages are loaded once; what they acknowledge is in
BANK.log.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from rau.bank.bank import Bank
from rau.references.reference import Reference
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

PROVENANCE = {"settings": {"model": "rau-mini"}, "versions": {"rau": "0"}}


def tiny(seed: int) -> Reference:
    """A reference of 2 x 6 x 6 voxels, different for each seed."""
    rng = np.random.default_rng(seed)
    grid = Geometry((2, 6, 6))
    labels = np.ones(grid.shape, np.uint8)
    labels[0, :3] = 0
    image = Volume(rng.integers(0, 1000, grid.shape).astype(np.int16), grid, "MR")
    return Reference(image, LabelMap(labels, grid, (Structure(1, "organ"),)))


def write_for_ever(root: Path, log: int, seed: int) -> None:
    """Add, accept and remove at random; a line to `log` when each has returned (and before each removal begins)."""
    rng = random.Random(seed)
    bank = Bank.open(root)
    while True:
        mine = [entry.id for entry in bank.entries()]
        if len(mine) > 6 or (mine and rng.random() < 0.35):
            chosen = rng.choice(mine)
            os.write(log, f"removing {chosen}\n".encode())
            os.write(log, f"removed {bank.remove(chosen)}\n".encode())
        elif rng.random() < 0.5:
            os.write(log, f"added {bank.add(tiny(rng.getrandbits(40))).id}\n".encode())
        else:
            os.write(log, f"accepted {bank.accept(tiny(rng.getrandbits(40)), PROVENANCE).id}\n".encode())


def main(root: Path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    bank = Bank.create(root)
    bank.remove(bank.add(tiny(0)).id)  # loads what is needed before the first fork
    start = time.perf_counter()
    bank.remove(bank.add(tiny(1)).id)
    usual = time.perf_counter() - start  # of an addition and a removal, here and now
    log = os.open(f"{root}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in range(rounds):
        child = os.fork()
        if child == 0:
            write_for_ever(root, log, seed * 1000 + number)
        time.sleep(rng.uniform(0.02, 4) * usual)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
