"""`rau serve` as a process of its own, for tests of the panel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from RAUSlicerLib import http_client


class Server:
    """`rau serve` with the model of the tests."""

    def __init__(self, folder: Path, model: Path, port: str = "0", *more: str) -> None:
        folder.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-m",
            "rau.cli",
            "serve",
            "--port",
            port,
            "--token-file",
            str(folder / "token"),
            *more,
        ]
        logic = str(Path(http_client.__file__).parents[1])
        variables = {**os.environ, "PYTHONPATH": logic, "RAU_MODELS": str(model.parent), "OMP_NUM_THREADS": "1"}
        variables["TMPDIR"] = str(folder)
        self.log = folder / "log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=variables, text=True)
        assert self.process.stdout
        self.url = self.process.stdout.readline().split()[-1]
        self.token = (folder / "token").read_text().strip()

    def end(self, kill: bool = False) -> None:
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(20)
        if self.process.stdout:
            self.process.stdout.close()
