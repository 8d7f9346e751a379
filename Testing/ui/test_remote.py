"""The panel computes on `rau serve`: the same voxels, consent first, and what is told when the server is not there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scene import difference, segments, snapshot
from served import Server

from host.pace import STALL_MS
from RAUSlicerLib import http_client
from RAUSlicerLib.problems import Problem

pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("served") / "one", random_model)
    yield started
    started.end()


@pytest.fixture
def settings(host: Any) -> Iterator[Any]:
    """The application's settings, with nothing of an earlier test."""
    import slicer

    from RAUSlicerLib import remote_box

    every = slicer.app.userSettings()
    names = (remote_box.ADDRESS_SETTING, remote_box.TOKEN_SETTING, remote_box.CONSENT_SETTING)
    for name in names:
        every.setValue(name, "")
    yield every
    for name in names:
        every.setValue(name, "")


def connect(panel: Any, url: str, token: str, agree: bool = True) -> None:
    """As the user does it."""
    box = panel.remote
    box.use_box.click()
    box.address_edit.text = url
    box.token_edit.text = token
    if agree and not box.consent_box.checked:
        box.consent_box.click()


@pytest.fixture
def small(settings: Any, chosen: Any, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The panel with the small random model, without what takes time."""
    from RAUSlicerLib.settings import Choices

    chosen._parameterNode.planes = "acquisition"
    whole, fast = Choices.settings, {"registration": "off", "adaptation": "off", "threads": 1}

    def few(choices: Any) -> dict[str, Any]:
        local = str(random_model) if chosen.logic.remote is None else random_model.name
        return {**whole(choices), **fast, "model": local}

    monkeypatch.setattr(Choices, "settings", few)
    return chosen


def run(host: Any, panel: Any, then: Callable[[], None] = lambda: None, slices: int = 0, seconds: float = 120) -> Any:
    assert host.spin(lambda: panel.ui.segmentButton.enabled, 5), panel.ui.segmentButton.toolTip
    panel.ui.segmentButton.click()
    if slices:
        assert host.spin(lambda: panel.logic.run.state.done >= slices or panel.logic.run.state.over, seconds)
    then()
    assert host.spin(lambda: panel.logic.run.state.over, seconds), panel.logic.run.state
    host.spin(lambda: False, 0.05)
    return panel.logic.run.state


@pytest.mark.slow
def test_local_and_remote_find_the_same_voxels_and_the_panel_never_stalls(
    host: Any, small: Any, case: Any, server: Server, picture: Any
) -> None:
    state = run(host, small)
    assert state.phase == "done", state.problem
    local = segments(small._parameterNode.outputSegmentation, case.target)
    assert sum(one.count for one in local) > 100
    small._parameterNode.outputSegmentation = None
    small.ui.remoteSection.collapsed = False
    connect(small, server.url, server.token)
    small.ui.structuresSection.collapsed = True
    host.spin(lambda: False, 0.05)
    picture("panel-remote", small.parent)
    with host.stalls() as gaps:
        state = run(host, small)
    assert state.phase == "done", state.problem
    assert gaps.worst < STALL_MS, str(gaps)
    assert segments(small._parameterNode.outputSegmentation, case.target) == local
    assert "127.0.0.1" in small.ui.workerLabel.text, "the panel says where it was computed"
    said = server.log.read_text()
    assert "Reference CT" not in said and "Target CT" not in said and "liver" not in said

    # cancel in the middle: the scene as before, and the server is free again
    before = snapshot(case.target)
    state = run(host, small, lambda: small.ui.segmentButton.click(), slices=3)
    assert state.phase == "cancelled" and not difference(before, snapshot(case.target))
    small._parameterNode.outputSegmentation = None
    assert run(host, small).phase == "done"


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_the_scene_and_the_next_run_works(
    host: Any, small: Any, case: Any, tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from RAUSlicerLib import remote_box

    monkeypatch.setattr(remote_box, "PATIENCE_SECONDS", 1.0)
    first = Server(tmp_path / "served", random_model)
    connect(small, first.url, first.token)
    before = snapshot(case.target)
    state = run(host, small, lambda: first.end(kill=True), slices=2)
    assert state.phase == "failed" and state.problem.kind == "ServerGone", state
    assert "does not answer" in state.problem.message and "rau serve" in state.problem.hint
    assert not difference(before, snapshot(case.target))
    assert small.ui.segmentButton.text == "Segment from reference"
    second = Server(tmp_path / "served", random_model, first.url.rpartition(":")[2])
    assert second.url == first.url
    assert run(host, small).phase == "done"
    second.end()


class Relay:
    """A wire to the server that can be cut: a small TCP relay in a process of its own."""

    CODE = """
import socket, sys, threading
target = ("127.0.0.1", int(sys.argv[1]))
listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
ends = []
def pipe(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for one in (a, b):
        try:
            one.shutdown(2)
        except OSError:
            pass
def accept():
    while True:
        near, _ = listening.accept()
        far = socket.create_connection(target)
        ends.extend((near, far))
        for pair in ((near, far), (far, near)):
            threading.Thread(target=pipe, args=pair, daemon=True).start()
threading.Thread(target=accept, daemon=True).start()
for line in sys.stdin:
    for one in ends:
        try:
            one.shutdown(2)
        except OSError:
            pass
    ends.clear()
"""

    def __init__(self, url: str) -> None:
        command = [sys.executable, "-c", self.CODE, url.rpartition(":")[2]]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{self.process.stdout.readline().strip()}"

    def cut(self) -> None:
        """Every connection of now; new ones are let through."""
        assert self.process.stdin
        self.process.stdin.write("cut\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
def test_a_broken_connection_is_made_again_and_the_run_goes_on(
    host: Any, small: Any, case: Any, server: Server
) -> None:
    relay = Relay(server.url)
    connect(small, relay.url, server.token)
    state = run(host, small, relay.cut, slices=2)
    relay.end()
    assert state.phase == "done", state.problem
    assert any("connection to the server was lost" in one for one in state.warnings), state.warnings


# -- before anything is sent
def test_off_by_default_and_nothing_runs_without_token_and_consent(
    host: Any, settings: Any, chosen: Any, picture: Any
) -> None:
    box, button = chosen.remote, chosen.ui.segmentButton
    assert not box.on and chosen.logic.remote is None and button.enabled
    box.use_box.click()

    def refused(words: str) -> bool:
        return bool(host.spin(lambda: not button.enabled and words in button.toolTip, 2))

    assert refused("Enter the address")
    box.address_edit.text = "nonsense"
    assert refused("not usable")
    box.address_edit.text = "http://10.1.2.3:8417"
    assert refused("needs its token")
    box.token_edit.text = "x" * 20
    assert refused("Agree under Remote that images go to 10.1.2.3")
    assert "10.1.2.3" in box.consent_label.text and "leave this computer" in box.consent_label.text
    assert "unencrypted" in box.warning_label.text and not box.warning_label.isHidden()
    box.consent_box.click()
    assert host.spin(lambda: button.enabled, 2), button.toolTip
    box.address_edit.text = "http://10.1.2.4:8417"
    assert refused("10.1.2.4"), "another address needs another consent"
    box.address_edit.text = "http://10.1.2.3:8417"
    assert host.spin(lambda: button.enabled, 2), "the first is remembered"
    box.consent_box.click()
    assert refused("Agree"), "and can be taken back"
    box.use_box.click()
    assert host.spin(lambda: button.enabled, 2) and chosen.logic.remote is None


def test_the_token_is_hidden_kept_only_when_asked_and_never_in_the_scene(
    host: Any, settings: Any, chosen: Any, tmp_path: Path
) -> None:
    from RAUSlicerLib import remote_box

    qt, box, token = host.qt, chosen.remote, "secret-of-the-server"
    connect(chosen, "http://127.0.0.1:8417", token)
    assert box.token_edit.echoMode == qt.QLineEdit.Password
    assert settings.value(remote_box.TOKEN_SETTING, "") == ""
    launch = chosen.logic.launch_of_run()
    assert token not in " ".join((launch.program, *launch.arguments)), "arguments can be seen by others"
    host.spin(lambda: False, 0.05)
    host.scene.SetURL(str(tmp_path / "case.mrml"))
    assert host.scene.Commit()
    assert token not in (tmp_path / "case.mrml").read_text() and "8417" not in (tmp_path / "case.mrml").read_text()
    box.keep_box.click()
    assert settings.value(remote_box.TOKEN_SETTING, "") == token
    box.keep_box.click()
    assert settings.value(remote_box.TOKEN_SETTING, "") == ""


# -- Test connection, and what is wrong in one line
def connection_test(host: Any, panel: Any) -> str:
    panel.remote.test_button.click()
    assert host.spin(lambda: panel.remote.test_button.enabled, 60)
    notice = panel.remote.message.notice
    return f"{notice.kind}: " + " ".join((notice.title, *notice.lines))


def test_the_connection_can_be_tested_without_consent_and_says_what_is_wrong(
    host: Any, settings: Any, chosen: Any, server: Server
) -> None:
    connect(chosen, server.url, server.token, agree=False)
    said = connection_test(host, chosen)
    assert said.startswith("done: The server answers") and "computes on cpu" in said
    chosen.remote.token_edit.text = "y" * 30
    assert "error: The token is missing or wrong" in connection_test(host, chosen)
    chosen.remote.address_edit.text = "http://127.0.0.1:9"
    assert "does not answer" in connection_test(host, chosen)
    chosen.remote.address_edit.text = server.url.replace("http", "https")
    assert "does not speak https" in connection_test(host, chosen)
    code = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler);"
    code += "print(s.server_port, flush=True); s.serve_forever()"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert other.stdout
    chosen.remote.address_edit.text = f"http://127.0.0.1:{other.stdout.readline().strip()}"
    said = connection_test(host, chosen)
    other.kill()
    other.communicate()
    assert "status 501" in said and "rau serve" in said


def test_images_that_are_too_large_are_told_before_they_are_sent(
    host: Any, small: Any, case: Any, tmp_path: Path, random_model: Path
) -> None:
    narrow = Server(tmp_path / "served", random_model, "0", "--max-upload-mb", "1")
    connect(small, narrow.url, narrow.token)
    before = snapshot(case.target)
    state = run(host, small)
    narrow.end()
    assert state.phase == "failed" and "the server takes 1 MB" in state.problem.message
    assert "--max-upload-mb" in state.problem.hint and not difference(before, snapshot(case.target))


def test_a_wrong_token_fails_the_run_in_one_line(host: Any, small: Any, case: Any, server: Server) -> None:
    connect(small, server.url, "z" * 30)
    before = snapshot(case.target)
    state = run(host, small)
    assert state.phase == "failed" and "token" in state.problem.message and "\n" not in str(state.problem)
    assert not difference(before, snapshot(case.target))


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://a:99999", "http://user@a", "a:8417"])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(Problem, match="address of the server"):
        http_client.address_of(url)


@pytest.mark.parametrize("token", ["a b", "a\nb", "schlüssel"])
def test_tokens_that_cannot_be_sent_are_refused(token: str) -> None:
    with pytest.raises(Problem, match="token is not usable"):
        http_client.HttpClient("http://127.0.0.1:1", token)


def test_names_and_folders_of_this_computer_do_not_go_to_the_server() -> None:
    from RAUSlicerLib import remote_client

    image = {"array": "a.npy", "source": "Doe^Jane"}
    labels = {"array": "l.npy"}
    message = {"target": image, "references": [{"image": image, "labels": labels}], "settings": {"model": "auto"}}
    sent = remote_client.nameless(message)
    assert "Jane" not in str(sent) and remote_client.arrays_of(sent) == ["a.npy", "a.npy", "l.npy"]
    corrected = {**message, "corrections": {"labels": {"array": "c.npy"}}}
    assert remote_client.arrays_of(corrected)[-1] == "c.npy"
    remote_client.check_local(message)
    with pytest.raises(Problem, match="model folder"):
        remote_client.check_local({**message, "settings": {"model": "/home/jane/model"}})
    with pytest.raises(Problem, match="bank"):
        remote_client.check_local({**message, "bank": "/home/jane/bank"})
