"""Messages of the worker: what they accept, how failures are told, and what a trace must not hold."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rau.errors import InputError, ModelError
from rau.settings import SegmentSettings
from rau.worker import protocol
from rau.worker.arrays import open_array, open_image, open_result
from rau.worker.failure import failure_of
from rau.worker.protocol import ProtocolError, SettingsError

GRID = {
    "shape": [2, 3, 4],
    "spacing": [5, 1, 2],
    "origin": [1, 2, 3],
    "direction": [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
}
IMAGE = {"array": "a.npy", "geometry": GRID, "modality": "CT", "source": "scan", "spacing_known": True}
JOB = {
    "op": "segment",
    "job": 3,
    "target": IMAGE,
    "references": [
        {
            "image": IMAGE,
            "labels": {"array": "b.npy"},
            "structures": [{"value": 1, "name": "liver", "color": [1, 0, 0], "terminology": "t"}],
        }
    ],
    "settings": {"structures": ["liver"], "window": [-100, 200]},
    "result": "r.npy",
}


def test_a_job_of_the_panel_is_understood():
    request = protocol.parse(json.dumps(JOB))
    assert isinstance(request, protocol.SegmentJob)
    assert request.settings == SegmentSettings(structures=("liver",), window=(-100.0, 200.0))
    geometry = request.target.geometry.geometry()
    assert np.allclose(geometry.to_world(np.array([[1, 1, 1]])), [[3, 3, 8]])
    assert request.references[0].structures[0].structure().terminology == "t"


def test_every_setting_travels_unchanged():
    settings = SegmentSettings(structures=("a", "b"), planes="all", seed=7, neighbours=2, window=(0.5, 9.0))
    line = json.dumps({**JOB, "settings": settings.model_dump(mode="json")})
    request = protocol.parse(line)
    assert isinstance(request, protocol.SegmentJob)
    assert request.settings == settings


@pytest.mark.parametrize(
    "name", ["../a.npy", "/etc/a.npy", "a/b.npy", "a\\b.npy", ".a.npy", "a.npz", "", "a\0.npy", "C:a.npy"]
)
def test_names_with_a_way_out_of_the_folder_are_refused(name):
    with pytest.raises(ProtocolError) as caught:
        protocol.parse(json.dumps({**JOB, "result": name}))
    assert caught.value.job == 3


def test_a_setting_out_of_range_is_the_users_business_anything_else_is_not():
    with pytest.raises(SettingsError) as caught:
        protocol.parse(json.dumps({**JOB, "settings": {"neighbours": 99}}))
    assert "neighbours" in str(caught.value)
    assert isinstance(caught.value, InputError)
    for broken in ({**JOB, "more": 1}, {"op": "segment"}, {"op": "hello"}, {"op": "x"}, [], 3, None):
        with pytest.raises(ProtocolError):
            protocol.parse(json.dumps(broken))
    with pytest.raises(ProtocolError):
        protocol.parse("[" * 100000)


def test_answers_are_one_line_each():
    line = protocol.encoded(protocol.Warned(job=1, message="two\nlines"))
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert json.loads(line) == {"event": "warning", "job": 1, "message": "two\nlines"}


def test_arrays_open_mapped_and_only_where_they_belong(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(1, 2, 3))
    assert isinstance(open_array(tmp_path, "a.npy"), np.memmap)
    (tmp_path / "link.npy").symlink_to(tmp_path / "a.npy")
    (tmp_path / "part.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-8])
    np.save(tmp_path / "text.npy", np.array(["x"]))
    for name in ("link.npy", "none.npy", "part.npy", "text.npy", "../a.npy"):
        with pytest.raises(ProtocolError):
            open_array(tmp_path, name)


def test_the_modality_is_guessed_where_nobody_knows_it_as_for_a_file(tmp_path):
    """Else a CT without its headers would be windowed one way from a file and another way from the panel."""
    values = np.full((2, 3, 4), -1000, np.int16)
    values[1] = 60
    np.save(tmp_path / "a.npy", values)
    for told, found in (("", "CT"), ("MR", "MR")):
        message = protocol.ImageMessage(array="a.npy", geometry=GRID, modality=told)
        assert open_image(tmp_path, message).modality == found


def packed(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("arr_0.npy", content)
    return stream.getvalue()


WHOLE = io.BytesIO()
np.save(WHOLE, np.arange(24, dtype=np.int16).reshape(2, 3, 4))
PICKLED = io.BytesIO()
np.save(PICKLED, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 looks like an archive",
        packed(WHOLE.getvalue()),
        PICKLED.getvalue(),
        b"\x80\x04\x95pickle",
        WHOLE.getvalue().replace(b"False", b"(((((", 1),
        WHOLE.getvalue().replace(b"(2, 3, 4)", b"(2, 3,-4)"),
        WHOLE.getvalue().replace(b"(2, 3, 4)", b"'2,3,4' ."),
        WHOLE.getvalue().replace(b"<i2", b"O  "),
    ],
)
def test_what_is_no_array_is_refused_as_a_message_that_breaks_the_protocol(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    for mode in ("r", "r+"):
        with pytest.raises(ProtocolError, match=r"a\.npy") as told:
            open_array(tmp_path, "a.npy", mode)
        assert "\n" not in str(told.value) and str(tmp_path) not in str(told.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 127), with_what=st.binary(min_size=1, max_size=6))
def test_damaged_headers_open_or_are_refused_and_never_raise_anything_else(tmp_path, at, with_what):
    content = bytearray(WHOLE.getvalue())
    content[at : at + len(with_what)] = with_what
    (tmp_path / "a.npy").write_bytes(bytes(content))
    with suppress(ProtocolError):
        assert open_array(tmp_path, "a.npy").dtype.kind in "biuf"


def test_a_result_begins_empty_whether_made_here_or_there(tmp_path):
    made = open_result(tmp_path, "r.npy", (2, 3, 4))
    made[...] = 5
    made.flush()
    del made
    again = open_result(tmp_path, "r.npy", (2, 3, 4))
    assert again.dtype == np.uint16
    assert not again.any()
    with pytest.raises(ProtocolError):
        open_result(tmp_path, "r.npy", (2, 3, 5))
    outside = tmp_path / "outside"
    (tmp_path / "trap.npy").symlink_to(outside)
    with pytest.raises(ProtocolError):
        open_result(tmp_path, "trap.npy", (2, 3, 4))
    assert not outside.exists()


def broken(error):
    try:
        raise error
    except BaseException as caught:
        return failure_of(caught)


def test_failures_have_a_kind_a_line_and_an_exit_status():
    told = broken(InputError("The image is bad", "Take another"))
    assert (told.kind, told.line, told.exit_code) == ("InputError", "The image is bad. Take another", 2)
    assert broken(ModelError("Gone")).exit_code == 4
    assert broken(MemoryError()).kind == "OutOfMemory"
    assert (
        broken(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")).kind == "OutOfMemory"
    )
    assert broken(OSError(28, "No space left on device")).kind == "DiskFull"
    assert broken(ModuleNotFoundError("No module named 'torch'", name="torch")).kind == "MissingPackage"


def test_unexpected_errors_carry_a_trace_without_user_data():
    secret = "/home/jane/Doe^Jane.nii.gz"
    told = broken(KeyError(secret))
    assert told.kind == "InternalError"
    assert "KeyError" in told.trace
    assert "test_worker_messages.py" in told.trace
    assert secret not in told.trace + told.message
    assert "/home" not in told.trace
    assert "\n" not in told.line
