"""The real worker, in which a stage fails: `python stage_worker.py FOLDER [light]`. For tests of faults alone.

While FOLDER/fault holds "STAGE KIND", that stage fails: "memory" (as Python tells it), "gpu" (as torch does), "disk",
"kill" (kill -9 of the process). light: the segmentation is that of `copying_worker`, which needs no model, so that the
process starts in a moment; the stages are told all the same.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rau.events import StageEvent
from rau.worker import process

FOLDER = Path(sys.argv[1])
BEFORE = ("retrieve", "register", "adapt", "reason")
AFTER = ("look", "assemble", "judge")


def fail(stage: str) -> None:
    """What the file asks for."""
    wanted, kind = (FOLDER / "fault").read_text().split()
    if wanted != stage:
        return
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if kind == "gpu":
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    raise MemoryError


def before(module: Any, name: str, stage: str) -> None:
    """Let a function fail before it does anything."""
    function = getattr(module, name)

    def failing(*arguments: Any, **named: Any) -> Any:
        fail(stage)
        return function(*arguments, **named)

    setattr(module, name, failing)


def light() -> None:
    """No model: the stages are told one after the other, a third of the slices comes before "segment" fails."""
    import copying_worker

    import rau.models.engine
    import rau.pipeline

    def segment(*arguments: Any, on_event: Callable[[Any], None], **named: Any) -> Any:
        def tell(event: Any) -> None:
            on_event(event)
            if getattr(event, "done", 0) == 4:
                fail("segment")

        for stage in BEFORE:
            on_event(StageEvent(stage))
            fail(stage)
        result = copying_worker.segment(*arguments, on_event=tell, **named)
        for stage in AFTER:
            on_event(StageEvent(stage))
            fail(stage)
        return result

    rau.pipeline.segment = segment
    rau.models.engine.load_engine = lambda settings: copying_worker.Engine()  # type: ignore[assignment, return-value]
    process.device = lambda: "cpu"


def real() -> None:
    """The stages of the real pipeline."""
    import rau.adaptation.guide
    import rau.pipeline
    import rau.preparation
    import rau.quality.judge
    import rau.sam.propagation

    whole = rau.sam.propagation.segment_plane

    def segment_plane(*arguments: Any, **named: Any) -> Iterator[Any]:
        for number, one in enumerate(whole(*arguments, **named)):
            if number == 4:
                fail("segment")
            yield one

    rau.sam.propagation.segment_plane = segment_plane
    before(rau.preparation, "encode", "retrieve")
    before(rau.preparation, "lay", "register")
    before(rau.adaptation.guide, "build_guide", "adapt")
    before(rau.pipeline, "reasoned", "reason")
    before(rau.pipeline, "looked_closer", "look")
    before(rau.pipeline, "join", "assemble")
    before(rau.quality.judge, "judge", "judge")


def main() -> int:
    import rau.description.results
    import rau.models.engine
    from rau.worker.protocol import Done

    light() if "light" in sys.argv else real()
    before(process, "open_image", "read")
    before(rau.models.engine, "load_engine", "load")
    before(rau.description.results, "with_descriptions", "describe")
    send = process.Worker.send

    def sent(worker: process.Worker, answer: Any) -> None:
        if isinstance(answer, Done):
            fail("write")  # the label map is there, the last word is not
        send(worker, answer)

    process.Worker.send = sent  # type: ignore[method-assign]
    return process.main()


if __name__ == "__main__":
    sys.exit(main())
