"""Processes that write to a bank and are killed a hundred times; two that write at once: nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rau.bank.bank import Bank

WORKER = Path(__file__).with_name("bank_worker.py")
ADD = """
import sys
sys.path.insert(0, sys.argv[1])
from bank_worker import tiny
from rau.bank.bank import Bank
bank = Bank.create(sys.argv[2])
print("here", flush=True)
sys.stdin.readline()
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    print(bank.add(tiny(seed), tell=lambda line: None).id, flush=True)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killed processes are forked")


def kept_for_good(log: Path) -> tuple[set[str], set[str]]:
    """Ids that were acknowledged and of which no removal began; ids whose removal was acknowledged."""
    acknowledged, removing, removed = set(), set(), set()
    for line in log.read_text().splitlines():
        word, entry_id = line.split()
        {"added": acknowledged, "accepted": acknowledged, "removing": removing, "removed": removed}[word].add(entry_id)
    return acknowledged - removing, removed


@pytest.mark.parametrize("seed", range(4))
def test_a_bank_whose_writers_are_killed_verifies_and_loses_nothing(tmp_path, environment, seed):
    """Four times twenty-five processes, each killed while it adds, accepts or removes."""
    root = tmp_path / "bank"
    command = [sys.executable, str(WORKER), str(root), "25", str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    wanted, removed = kept_for_good(Path(f"{root}.log"))
    before = {entry.id for entry in Bank.open(root).entries(pytest.fail)}
    assert wanted <= before and not removed & before
    found = Bank.open(root).verify()
    assert found.clean and {entry.id for entry in found.entries} == before
    assert not Bank.open(root).verify().cleaned
    assert {one.name for one in root.iterdir()} == {*before, ".lock", "bank.json"}
    for entry in found.entries:
        assert Bank.open(root).reference(entry.id).image.array.shape == (2, 6, 6)


def test_the_killed_writers_were_killed_at_work(tmp_path, environment):
    """Among twenty-five kills some leave a half-written or half-removed entry, or the test above shows nothing."""
    root = tmp_path / "bank"
    done = subprocess.run([sys.executable, str(WORKER), str(root), "25", "77"], env=environment, timeout=120)
    assert done.returncode == 0
    assert Bank.open(root).verify().cleaned and len(Path(f"{root}.log").read_text().splitlines()) > 10


def test_two_writers_at_once_lose_nothing_and_keep_what_both_bring_once(tmp_path, environment):
    root = tmp_path / "bank"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(WORKER.parent), str(root), str(first), str(first + 20)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, 10)
    ]
    for one in writers:
        assert one.stdout is not None and one.stdout.readline() == "here\n"
    for one in writers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    told = [set(one.communicate(timeout=120)[0].split()) for one in writers]
    assert all(one.returncode == 0 for one in writers)
    found = Bank.open(root).verify()
    assert found.clean and not found.cleaned
    assert {entry.id for entry in found.entries} == told[0] | told[1]
    assert len(found.entries) == 30 and len(told[0] & told[1]) == 10
