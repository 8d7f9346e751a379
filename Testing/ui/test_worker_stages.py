"""A worker that fails at each stage of a run (memory, GPU memory, disk, kill -9): one message says what happened and
what to do, the scene is as it was, and the next run works."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from acts import said
from scene import difference, segmentation_node, segments, snapshot, volume_node

BEFORE = ("read", "load", "retrieve", "register", "adapt", "reason")
STAGES = (*BEFORE, "segment", "look", "assemble", "judge", "describe", "write")
PROGRAM = Path(__file__).with_name("stage_worker.py")
MEMORY = "memory of this computer or its GPU does not suffice"
WORDS = {
    "memory": (MEMORY, "smaller image"),
    "gpu": (MEMORY, "device cpu"),
    "disk": ("The disk is full", "Free some space"),
    "kill": ("The model process ended unexpectedly", "often for want of memory"),
}


class Faulty:
    """The panel with two small patients, and a worker that fails when told so."""

    def __init__(self, host: Any, panel: Any, folder: Path, patch: pytest.MonkeyPatch, *how: str) -> None:
        from rau.training.patient import patient_pair
        from RAUSlicerLib import environment

        self.host, self.panel, self.folder = host, panel, folder
        reference, (target, _) = patient_pair(2, (10, 48, 48))
        image = volume_node(reference.image, "Reference")
        self.target = volume_node(target, "Target")
        panel.references.rows[0].segmentation.setCurrentNode(segmentation_node(reference.labels, image, "Reference"))
        panel.ui.targetSelector.setCurrentNode(self.target)
        variables = tuple(sorted(environment.worker_environment(os.environ).items()))
        launch = environment.Launch(sys.executable, (str(PROGRAM), str(folder), *how), variables)
        patch.setattr(environment, "launch", lambda python, base, logic=None: launch)
        self.fail("none none")

    def fail(self, fault: str) -> None:
        (self.folder / "fault").write_text(fault)

    def run(self) -> Any:
        assert self.host.spin(lambda: self.panel.ui.segmentButton.enabled, 5), self.panel.ui.segmentButton.toolTip
        self.panel.ui.segmentButton.click()
        assert self.host.spin(lambda: self.panel.logic.run.state.over, 90), self.panel.logic.run.state
        self.host.spin(lambda: False, 0.02)
        return self.panel.logic.run.state

    def refused(self, stage: str, kind: str) -> None:
        """The run fails there: told in words, the scene as it was."""
        before, told = snapshot(self.target), f"{stage}, {kind}"
        self.fail(f"{stage} {kind}")
        state = self.run()
        assert state.phase == "failed", told
        notice = self.panel.message.notice
        assert notice.kind == "error" and all(words in said(self.panel) for words in WORDS[kind]), (told, notice)
        assert "\n" not in str(state.problem) and "Traceback" not in said(self.panel), told
        assert not difference(before, snapshot(self.target)), told
        assert self.panel.ui.segmentButton.text == "Segment from reference", told

    def works(self) -> None:
        self.fail("none none")
        state = self.run()
        assert state.phase == "done", state
        node = self.panel._parameterNode.outputSegmentation
        assert sum(one.count for one in segments(node, self.target)) > 100
        self.panel.ui.undoButton.click()
        self.host.spin(lambda: False, 0.02)


def test_killed_at_each_stage_the_scene_is_as_it_was_and_the_next_run_works(
    host: Any, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty(host, panel, tmp_path, monkeypatch, "light")
    for stage in STAGES:
        faulty.refused(stage, "kill")
        assert panel.logic.client.state == "stopped", stage
    faulty.works()


@pytest.mark.slow
def test_out_of_memory_and_a_full_disk_at_each_stage_of_the_real_run_leave_the_worker_useful(
    host: Any, panel: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_model: Path
) -> None:
    """One worker for all of them: it answers the next run after each."""
    from RAUSlicerLib.settings import Choices

    whole = Choices.settings
    given = {"model": str(random_model), "planes": "acquisition", "threads": 1, "device": "cpu"}

    def few(choices: Any) -> dict[str, Any]:
        wanted = (tmp_path / "fault").read_text().split()[0]
        off = {
            name: "off" for name, stage in (("adaptation", "adapt"), ("registration", "register")) if stage != wanted
        }
        return {**whole(choices), **given, **off}

    faulty = Faulty(host, panel, tmp_path, monkeypatch)
    monkeypatch.setattr(Choices, "settings", few)
    pids = set()
    for number, stage in enumerate(STAGES):
        faulty.refused(stage, "disk" if stage in ("read", "write") else ("memory", "gpu")[number % 2])
        assert panel.logic.client.state == "ready", "the process stays"
        pids.add(panel.logic.client._process.pid())
    faulty.works()
    assert pids == {panel.logic.client._process.pid()}
