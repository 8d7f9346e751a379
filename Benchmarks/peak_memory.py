"""The most memory that one method takes for one pair, measured in a process of its own.

Resident set of the whole process: interpreter, libraries, model, images.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

METHODS = ("rau", "bspline", "convex_adam")


def peak_mb() -> float | None:
    """The largest resident set of this process so far, MB (10^6 bytes); None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says holds the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measured(name: str, place: int, method: str, options: list[str]) -> tuple[float | None, str]:
    """MB of `method` on the pair at `place` of the set, in a fresh process; or None and why not."""
    command = [sys.executable, str(Path(__file__)), "--set", name, "--place", str(place), "--method", method, *options]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    try:
        told = json.loads(done.stdout.splitlines()[-1])
        return told["mb"], told["error"]
    except (IndexError, ValueError, KeyError):
        return None, f"ended with {done.returncode}: {' '.join(done.stderr.split())[-200:]}"


def main() -> int:
    import common
    from scores import score_of
    from sets import pairs_for

    from rau.evaluation.baselines import BASELINES

    parser = common.options(__doc__)
    parser.add_argument("--set", required=True)
    parser.add_argument("--place", type=int, default=0)
    parser.add_argument("--method", choices=METHODS, required=True)
    arguments = parser.parse_args()
    pair = pairs_for(arguments.set)[arguments.place]
    if arguments.method == "rau":
        error = common.run_pair(pair, *common.engine_for(arguments))[0].error
        return _tell(None if error else peak_mb(), error)
    method, read = next(one for one in BASELINES if one.name == arguments.method), common.read_pair(pair)
    if not method.takes(read[1]):
        return _tell(None, "")
    error = score_of(method, *read).error
    return _tell(None if error else peak_mb(), error)


def _tell(mb: float | None, error: str) -> int:
    """One line of JSON for `measured`; mb is None, without an error, where the method does not take such images."""
    print(json.dumps({"mb": mb, "error": error}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
