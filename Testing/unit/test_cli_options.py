"""The command line and the settings are the same thing; it starts fast; a wrong call is one line."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from rau.cli import app, main
from rau.commands.options import flag_of, help_of, settings_from
from rau.errors import InputError
from rau.settings import SegmentSettings

LOGIC = Path(__file__).resolve().parents[2] / "RAUSlicer" / "Logic"
WHOLE = ["--reference", "a", "--labels", "b", "--target", "c", "--output", "d"]
CONTRACT = [
    "--reference",
    "--labels",
    "--target",
    "--output",
    "--series",
    "--structures",
    "--prompt",
    "--model",
    "--device",
    "--planes",
    "--report",
    "--seed",
    "--threads",
]


def options(name):
    command = typer.main.get_command(app).commands[name]
    return {flag: parameter for parameter in command.params for flag in parameter.opts}


def test_every_setting_is_an_option_with_its_default_and_its_help():
    found = options("segment")
    for name, field in SegmentSettings.model_fields.items():
        option = found[flag_of(name)]
        assert option.help == help_of(field)
        assert option.help.startswith(field.description)
        given = {} if option.default is None else {name: option.default}
        assert getattr(settings_from(given), name) == field.default


def test_options_of_the_contract_are_there_and_no_option_is_of_no_use():
    found = options("segment")
    assert set(CONTRACT) <= set(found)
    known = {flag_of(name) for name in SegmentSettings.model_fields}
    files = {"--reference", "--labels", "--target", "--output", "--series", "--reference-series", "--report"}
    bank = {"--bank", "--bank-references", "--bank-ids", "--bank-mismatch"}
    corrections = {"--corrections", "--corrected-slices"}
    assert set(found) - {"--help"} == known | files | bank | corrections


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"structures": "liver, left kidney,"}, "structures", ("liver", "left kidney")),
        ({"window": "-160,240"}, "window", (-160.0, 240.0)),
        ({"threads": 2}, "threads", 2),
        ({"device": "cpu"}, "device", "cpu"),
    ],
)
def test_options_become_settings(given, name, value):
    assert getattr(settings_from(given), name) == value


@pytest.mark.parametrize(
    "given",
    [
        {"window": "1"},
        {"window": "a,b"},
        {"device": "abacus"},
        {"references_per_slice": 0},
        {"seed": -1},
        {"planes": ""},
    ],
)
def test_options_out_of_range_are_told_by_name(given):
    with pytest.raises(InputError) as caught:
        settings_from(given)
    assert flag_of(next(iter(given))) in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (["segment"], "--target"),
        (["segment", *WHOLE[4:]], "--reference"),
        (["segment", *WHOLE[4:], "--bank", "no-such-bank"], "no-such-bank"),
        (["segment", "--nonsense"], "--nonsense"),
        (["dance"], "dance"),
        (["models"], "command"),
        (["segment", *WHOLE, "--threads", "two"], "--threads"),
        (["models", "verify", "no-such-model"], "no-such-model"),
    ],
)
def test_a_wrong_call_is_one_line(call, word, capsys):
    status = main(call)
    told = capsys.readouterr()
    assert status == (4 if "verify" in call else 2)
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("rau: ")
    assert word in line


def test_help_and_version(capsys):
    assert main([]) == 0
    assert "segment" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rau ")


def python(code):
    """Processor seconds (other work on the machine does not count), and what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(LOGIC)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.returncode == 0, ran.stderr
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ran.stdout


def test_help_is_there_at_once_and_loads_nothing_heavy():
    code = "import sys, rau.cli; code = rau.cli.main(['--help']); print('heavy:', *"
    code += "{'torch', 'transformers', 'sam2', 'SimpleITK', 'pydicom', 'scipy'} & set(sys.modules)); sys.exit(code)"
    runs = [python(code) for _ in range(4)]
    assert all(out.splitlines()[-1].strip() == "heavy:" for _, out in runs)
    empty = min(python("pass")[0] for _ in range(3))
    assert min(seconds for seconds, _ in runs) - empty < 0.5
