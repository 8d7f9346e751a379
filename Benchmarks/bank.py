"""A reference bank of 10,000 entries beside one of 100: how long a query takes, and how much memory.

Entries are synthetic: volumes of 6 x 24 x 24 voxels, which a query never reads but for the three that it picks, and
descriptors of 40 slices, as real volumes have, in 25 clusters. Each bank is measured in a process of its own. A query
is all that `rau.bank.search.pick` does for a target of 40 slices of 128 x 128, describing its slices included; ms a
slice is that over 40. Beside the clock stands the time of the processor, which other work on the machine does not
stretch: that is what `--check` holds against one second. The first query after the entries came reads every
descriptor; later ones read one file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any
from uuid import uuid4

import common
import numpy as np
import peak_memory

from rau.bank.bank import Bank
from rau.bank.descriptors import encoder_key, keep, volume_descriptors
from rau.bank.entry import Provenance
from rau.bank.files import FILES, write_files
from rau.bank.making import write_entry
from rau.bank.search import pick
from rau.errors import RauError
from rau.evaluation.tables import print_table
from rau.models.engine import Engine, load_engine
from rau.references.reference import Reference
from rau.settings import SegmentSettings
from rau.volume.volume import Geometry, LabelMap, Structure, Volume

SMALL, LARGE, QUICK = 100, 10_000, 1_000
SLICES, CLUSTERS, QUERIES = 40, 25, 9
LIMIT = 1.0  # seconds a query
NAMES = ("liver", "spleen", "left kidney", "right kidney", "aorta", "pancreas", "stomach", "bladder")


def small_reference(seed: int) -> Reference:
    """A volume of 6 x 24 x 24 voxels with two of the structures."""
    rng = np.random.default_rng(seed)
    grid = Geometry((6, 24, 24), (5.0, 1.0, 1.0))
    labels = np.zeros(grid.shape, np.uint8)
    labels[1:5, 3:12, 3:12], labels[1:5, 12:20, 12:20] = 1, 2
    chosen = rng.choice(len(NAMES), 2, replace=False)
    structures = tuple(Structure(value, NAMES[name]) for value, name in zip((1, 2), chosen))
    image = Volume(rng.integers(-500, 500, grid.shape).astype(np.int16), grid, "CT" if seed % 2 else "MR")
    return Reference(image, LabelMap(labels, grid, structures))


def fill(root: Path, count: int, engine: Engine) -> None:
    """A bank as `Bank.add` would make it, with links instead of copies of the voxels."""
    rng = np.random.default_rng(count)
    bank = Bank.create(root)
    models = [small_reference(seed) for seed in range(20)]
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        folders = [Path(scratch) / str(place) for place in range(len(models))]
        for folder, reference in zip(folders, models):
            folder.mkdir()
            write_files(reference, folder)
        centres = rng.normal(size=(CLUSTERS, width_of(engine)))
        for place in range(count):
            entry_id, which = uuid4().hex, place % len(models)
            folder = root / entry_id
            folder.mkdir()
            for name in FILES:
                os.link(folders[which] / name, folder / name)
            told = {"title": f"case {place}", "content": uuid4().hex, "image": uuid4().hex}
            write_entry(models[which], folder, entry_id, told, Provenance())
            vectors = centres[place % CLUSTERS] + 0.5 * rng.normal(size=(SLICES, centres.shape[1]))
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            keep(bank, entry_id, engine, 0, vectors.astype(np.float32))


def width_of(engine: Engine) -> int:
    """Length of a descriptor."""
    if engine.encoder is None or not encoder_key(engine):
        raise RauError("The model has no encoder", "Use rau-mini")
    return int(engine.encoder.model.config.hidden_size)


def engine_of(arguments: Namespace) -> tuple[Engine, SegmentSettings]:
    """Without the VLM, which has no part in this."""
    settings = SegmentSettings(model=arguments.model, device=arguments.device, reasoning="off")
    return load_engine(settings), settings


def target_of(seed: int) -> Volume:
    rng = np.random.default_rng(seed)
    grid = Geometry((SLICES, 128, 128), (5.0, 1.0, 1.0))
    return Volume(rng.integers(-500, 500, grid.shape).astype(np.int16), grid, "CT")


def probe(root: Path, arguments: Namespace) -> dict[str, float]:
    """Seconds to open and to list, ms of the first and of later queries, MB that the bank adds to the process."""
    engine, settings = engine_of(arguments)
    volume_descriptors(engine, target_of(0), 0)  # what describing takes is not the bank's
    start_mb = peak_memory.peak_mb() or 0.0
    start = time.perf_counter()
    bank = Bank.open(root)
    entries = len(bank.entries())
    opened = time.perf_counter() - start
    seconds, busy = [], []
    for query in range(QUERIES + 1):
        target = target_of(query)
        start, own = time.perf_counter(), time.process_time()
        pick(bank, target, engine, settings, tell=lambda _: None)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - own)
    later = float(np.median(seconds[1:]))
    grown = (peak_memory.peak_mb() or 0.0) - start_mb
    told = {"entries": entries, "open_s": opened, "first_s": seconds[0], "query_s": later}
    told["processor_s"] = float(np.median(busy[1:]))
    return {**told, "slowest_s": max(seconds[1:]), "slice_ms": 1e3 * later / SLICES, "mb": grown}


def measured(count: int, folder: Path, engine: Engine, arguments: Namespace) -> dict[str, float]:
    """The figures of a bank of `count`, from a fresh process."""
    root = folder / f"bank-{count}"
    start = time.perf_counter()
    fill(root, count, engine)
    common.say(f"a bank of {count} made in {time.perf_counter() - start:.0f} s")
    options = ["--model", arguments.model, "--device", arguments.device, "--probe", str(root)]
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        raise RauError(f"The process that measures ended with {done.returncode}: {done.stderr[-300:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> int:
    parser = common.options(__doc__)
    parser.add_argument("--probe", type=Path, metavar="BANK", help="measure this bank in this process")
    arguments = parser.parse_args()
    try:
        if arguments.probe:
            common.say(json.dumps(probe(arguments.probe, arguments)))
            return 0
        engine, _ = engine_of(arguments)
        sizes = (SMALL, QUICK if arguments.quick else LARGE)
        with tempfile.TemporaryDirectory() as folder:
            found = [measured(count, Path(folder), engine, arguments) for count in sizes]
    except RauError as problem:
        return common.stop(problem)
    rows = [row_of(one) for one in found]
    columns = ["entries", "open s", "first query s", "query ms", "of processor", "slowest ms", "ms a slice", "MB more"]
    print_table("A query of the bank", columns, rows)
    told: dict[str, Any] = {"banks": found, "versions": engine.versions()}
    common.write_json(arguments.json, told)
    small, large = found
    common.say(
        f"{large['entries']} entries: {1e3 * large['query_s']:.0f} ms a query ({1e3 * large['processor_s']:.0f} of the "
        f"processor, {large['slice_ms']:.1f} a slice), "
        f"{large['mb']:.0f} MB; {small['entries']} entries: {1e3 * small['query_s']:.0f} ms, {small['mb']:.0f} MB"
    )
    return int(arguments.check and large["processor_s"] > LIMIT)


def row_of(one: dict[str, float]) -> list[str | float | None]:
    ms = [round(1e3 * one[name], 1) for name in ("query_s", "processor_s", "slowest_s")]
    opened = [round(one[name], 2) for name in ("open_s", "first_s")]
    return [str(one["entries"]), *opened, *ms, round(one["slice_ms"], 2), round(one["mb"])]


if __name__ == "__main__":
    sys.exit(main())
