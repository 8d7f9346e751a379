"""A disk that really gets full: a file is whole or not there, what was there before stays, and the reason is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rau.errors import InputError
from rau.export.page import write_page
from rau.export.writing import check_output, write_labels
from rau.volume.volume import Geometry, LabelMap, Structure, Volume
from rau.worker.arrays import open_result
from rau.worker.failure import failure_of

LOGIC = Path(__file__).resolve().parents[2] / "RAUSlicer" / "Logic"
GRID = Geometry((20, 200, 200))
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".seg.nrrd", ".dcm")


@pytest.fixture(scope="module")
def noise() -> LabelMap:
    """Labels that cannot be packed into little."""
    array = np.random.default_rng(0).integers(0, 7, GRID.shape).astype(np.uint8)
    return LabelMap(array, GRID, tuple(Structure(value, f"structure {value}") for value in range(1, 7)))


def test_a_label_map_that_does_not_fit_leaves_what_was_there_in_every_format(small_disk, noise):
    """ITK cuts a NIfTI off without a word."""
    disk = small_disk("200k")
    for ending in ENDINGS:
        output = disk / f"out{ending}"
        output.write_bytes(b"before")
        with pytest.raises(InputError, match="cannot be written: the disk is full") as caught:
            write_labels(noise, output)
        assert "Free some space" in caught.value.hint and str(disk) not in str(caught.value), ending
        assert output.read_bytes() == b"before" and [one.name for one in disk.iterdir()] == [output.name], ending
        output.unlink()


def test_a_report_that_does_not_fit_leaves_what_was_there(small_disk, noise):
    disk = small_disk("64k")
    (disk / "report.html").write_bytes(b"before")
    (disk / "others").write_bytes(b"x" * (52 << 10))
    grid = Geometry((2, 60, 60))
    image = Volume(np.random.default_rng(1).integers(0, 900, grid.shape).astype(np.int16), grid, "CT")
    labels = LabelMap((noise.array[:2, :60, :60] == 1).astype(np.uint8), grid, noise.structures[:1])
    with pytest.raises(InputError, match="disk is full"):
        write_page(image, labels, disk / "report.html")
    assert (disk / "report.html").read_bytes() == b"before" and len(list(disk.iterdir())) == 2


def test_a_disk_that_takes_no_more_files_is_told_before_work_begins(small_disk):
    disk = small_disk("64k,nr_inodes=2")
    (disk / "last").touch()
    with pytest.raises(InputError, match="the disk is full"):
        check_output(disk / "out.nrrd", is_single_slice=False)


def test_the_workers_result_is_refused_by_a_full_disk_and_never_kills_the_process(small_disk):
    """A mapped file without blocks of its own would: the system ends who writes into it."""
    disk = small_disk("200k")
    with pytest.raises(OSError) as caught:
        open_result(disk, "result.npy", GRID.shape)
    told = failure_of(caught.value)
    assert (told.kind, told.message, told.exit_code) == ("DiskFull", "The disk is full", 2) and told.hint
    assert list(disk.iterdir()) == []
    fits = open_result(disk, "result.npy", (4, 100, 100))
    (disk / "others").write_bytes(b"x" * (60 << 10))
    with pytest.raises(OSError):
        (disk / "rest").write_bytes(b"x" * (100 << 10))
    fits[...] = 7  # its room was taken when it was made
    fits.flush()
    assert np.load(disk / "result.npy", mmap_mode="r").min() == 7


LIMITED = """
import resource, sys
import numpy as np
from rau.errors import InputError
from rau.export.writing import write_labels
from rau.volume.volume import Geometry, LabelMap, Structure
from rau.worker.arrays import open_result
from pathlib import Path
array = np.random.default_rng(0).integers(0, 7, (20, 200, 200)).astype(np.uint8)
labels = LabelMap(array, Geometry(array.shape), tuple(Structure(v, str(v)) for v in range(1, 7)))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder = Path(sys.argv[1])
for ending in sys.argv[2:]:
    try:
        write_labels(labels, folder / f"out{ending}")
    except InputError as error:
        print(ending, error)
try:
    open_result(folder, "result.npy", array.shape)
except OSError as error:
    print("result", error.errno)
print(sorted(one.name for one in folder.iterdir()))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="limits of a process are told the POSIX way")
def test_a_limit_on_the_size_of_a_file_is_as_good_as_a_full_disk(tmp_path):
    variables = {**os.environ, "PYTHONPATH": str(LOGIC)}
    call = [sys.executable, "-c", LIMITED, str(tmp_path), *ENDINGS[:4]]
    ran = subprocess.run(call, capture_output=True, text=True, env=variables, timeout=60)
    assert ran.returncode == 0, ran.stderr
    *told, result, left = ran.stdout.splitlines()
    assert [line.split()[0] for line in told] == list(ENDINGS[:4]), "each of them is refused"
    assert all("cannot be written" in line for line in told)
    assert result.startswith("result") and left == "[]", "nothing is left behind"
