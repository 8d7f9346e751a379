"""A process that breaks the protocol on purpose: `python fault_worker.py FAULT`. For tests of faults alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


def ready(version: int = 1) -> None:
    say(event="ready", protocol=version, versions={}, device="cpu")


def structures(message: dict[str, Any]) -> list[dict[str, Any]]:
    return list(message["references"][0]["structures"])


def main(fault: str) -> int:
    if fault == "crash at start":
        print("Traceback (most recent call last):\nModuleNotFoundError: No module named 'torch'", file=sys.stderr)
        return 1
    if fault == "never ready":
        time.sleep(600)
    for line in sys.stdin:
        message = json.loads(line)
        if message["op"] == "quit":
            return 0
        if message["op"] == "hello":
            if fault == "garbage":
                print("Loading checkpoint shards: 100%", flush=True)
            else:
                if fault == "closed input":
                    os.close(0)
                ready(2 if fault == "other version" else 1)
                if fault == "closed input":
                    time.sleep(600)
        elif message["op"] == "segment":
            job = message["job"]
            say(event="stage", job=job, stage="segment", message="")
            if fault == "hang":
                time.sleep(600)  # deaf to cancel
            elif fault == "closed output":
                os.close(1)
                time.sleep(600)
            elif fault == "slice beyond":
                say(event="slice", job=job, done=1, total=1, index=10**6, axis=0, has_labels=True, score=1.0, ms=1.0)
            elif fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault == "nothing found":
                rows = [{"name": one["name"], "value": one["value"], "present": False} for one in structures(message)]
                say(event="done", job=job, report={"structures": rows, "warnings": [], "slices": []})
            elif fault == "model missing":
                say(event="error", job=job, kind="ModelError", message="No model X", hint="Get it", exit_code=4)
            elif fault == "old words":
                say(event="done", job=job + 7, report={})
                say(event="error", job=job, kind="InputError", message="A reason", hint="A way out", exit_code=2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
