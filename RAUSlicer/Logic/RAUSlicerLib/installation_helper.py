"""Runs in other Pythons than Slicer's, as a script of its own: looks at a Python, makes an environment, checks it.

    python installation_helper.py probe
    python installation_helper.py make FOLDER SOURCE...
    python installation_helper.py check

Each prints one line of JSON. Standard library alone, and no syntax newer than the oldest Python that may be asked.
"""

import json
import os
import re
import subprocess
import sys


def probe():
    """What this Python is, where its pip lies, and where pip would download from."""
    found = {
        "version": list(sys.version_info[:3]),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "pip": pip_places(),
        "index": os.environ.get("PIP_INDEX_URL", ""),
    }
    try:
        import venv  # noqa: F401

        found["venv"] = True
    except ImportError:
        found["venv"] = False
    if not found["index"] and found["pip"]:
        found["index"] = configured_index()
    return found


def pip_places():
    """Where pip can be taken from without a download: a wheel that came with Python, or its own folder."""
    import glob
    import importlib.util

    places = []
    try:
        import ensurepip

        bundled = getattr(ensurepip, "_WHEEL_PKG_DIR", None) or os.path.join(
            os.path.dirname(ensurepip.__file__), "_bundled"
        )
        places += sorted(glob.glob(os.path.join(bundled, "pip-*.whl")), reverse=True)
    except ImportError:
        pass
    places += sorted(glob.glob("/usr/share/python-wheels/pip-*.whl"), reverse=True)
    spec = importlib.util.find_spec("pip")
    if spec is not None and spec.origin:
        places.append(os.path.dirname(spec.origin))
    return places


def configured_index():
    """The index that pip is set up with; empty: its own choice."""
    try:
        told = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"^(?:\S*\.)?index-url='([^']*)'", told, re.M)
    return found.group(1) if found else ""


def make(folder, sources):
    """An isolated environment with pip in it, which is put there file by file: ensurepip is missing in some Pythons."""
    import venv

    whole = os.path.isfile(os.path.join(folder, "pyvenv.cfg"))
    venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False, clear=False).create(folder)
    packages = packages_of(folder)
    if not (whole and os.path.isfile(os.path.join(packages, "pip", "__main__.py"))):
        place_pip(packages, sources)
    return {"pip": pip_version(packages), "variables": needed_variables(python_of(folder), folder)}


def python_of(folder):
    parts = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")
    return os.path.join(folder, *parts)


def needed_variables(python, folder):
    """What the new Python needs in its surroundings to run: nothing, or, made by a Python that was moved after it was
    built, as Slicer's is, some of what that one was started with."""
    for names in ((), ("PYTHONHOME",), ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")):
        given = {name: os.environ[name] for name in names if os.environ.get(name)}
        if len(given) < min(1, len(names)):
            continue
        cleared = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
        surroundings = {k: v for k, v in os.environ.items() if k not in cleared}
        surroundings.update(given)
        command = [python, "-c", "import ctypes, ssl, sys, zlib; print(sys.prefix)"]
        try:
            told = subprocess.run(command, capture_output=True, env=surroundings, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        prefix = told.stdout.decode("utf-8", "replace").strip()
        if told.returncode == 0 and os.path.realpath(prefix) == os.path.realpath(folder):
            return given
    raise SystemExit("ERROR: the environment that this Python made does not run")


def packages_of(folder):
    if os.name == "nt":
        return os.path.join(folder, "Lib", "site-packages")
    return os.path.join(folder, "lib", "python{}.{}".format(*sys.version_info[:2]), "site-packages")


def place_pip(packages, sources):
    """Unpack the first usable source. A wheel of pure Python is installed by being unpacked."""
    import shutil
    import zipfile

    for source in sources:
        if os.path.isdir(source):
            parent = os.path.dirname(source)
            names = [n for n in os.listdir(parent) if n == "pip" or re.match(r"pip-[0-9].*\.dist-info$", n)]
            for name in names:
                shutil.copytree(os.path.join(parent, name), os.path.join(packages, name), dirs_exist_ok=True)
            return
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as wheel:
                wheel.extractall(packages)
            return
    raise SystemExit("ERROR: no pip was found to put into the environment")


def pip_version(packages):
    found = [re.match(r"pip-([0-9.]+).*\.dist-info$", name) for name in os.listdir(packages)]
    return next((m.group(1) for m in found if m), "")


def check():
    """Import what the worker needs, from this environment, and say what is there."""
    import rau.models.engine
    import rau.pipeline  # noqa: F401
    from rau.worker.process import device, versions

    found = versions()
    for module in ("sam2", "transformers", "SimpleITK", "sklearn", "scipy"):
        __import__(module)
    size = 0
    for folder, _folders, files in os.walk(sys.prefix):
        size += sum(os.lstat(os.path.join(folder, name)).st_size for name in files)
    return {"versions": found, "device": device(), "bytes": size}


def main(arguments):
    if arguments[0] == "probe":
        answer = probe()
    elif arguments[0] == "make":
        answer = make(arguments[1], arguments[2:])
    else:
        answer = check()
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
