"""The messages that the code can tell a user, read from its sources: what is raised, with what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "RAUSlicer" / "Logic"
RAISED = {
    "Problem": 0,
    "InputError": 0,
    "ModelError": 0,
    "NothingFoundError": 0,
    "SettingsError": 0,
    "ProtocolError": 0,
    "ServerGone": 0,
    "ServiceError": 1,
    "Failure": 1,
}  # by the name of the type: which of its arguments is the message
GAP = "…"


@dataclass(frozen=True)
class Told:
    """message, hint: as the user reads them, with … where the code puts something in. where: file and line."""

    message: str
    hint: str
    where: str


def texts_of(node: ast.expr, known: dict[str, list[str]]) -> list[str]:
    """The texts that an expression can have; what is not fixed is a gap."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(one.value if isinstance(one, ast.Constant) else GAP for one in node.values)]
    if isinstance(node, ast.Name):
        return known.get(node.id, [GAP])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [one + two for one in texts_of(node.left, known) for two in texts_of(node.right, known)]
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "_" and node.args:
            return [re.sub(r"\{\w*\}", GAP, one) for one in texts_of(node.args[0], known)]
        if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
            return [re.sub(r"\{\w*\}", GAP, one) for one in texts_of(node.func.value, known)]
    return [GAP]


def told_in(path: Path) -> Iterator[Told]:
    """Every message that a file tells by an exception or a problem."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef)]:
        known: dict[str, list[str]] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                known.setdefault(node.targets[0].id, []).extend(texts_of(node.value, {}))
        for node in ast.walk(function):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED):
                continue
            place = RAISED[node.func.id]
            if len(node.args) <= place:
                continue
            hint = texts_of(node.args[place + 1], known)[0] if len(node.args) > place + 1 else ""
            for message in texts_of(node.args[place], known):
                if len(re.sub(rf"[{GAP}\W]", "", message)) >= 8:
                    yield Told(plain(message), plain(hint), f"{path.relative_to(ROOT)}:{node.lineno}")


def plain(text: str) -> str:
    """On one line, neighbouring gaps as one."""
    return re.sub(rf"{GAP}+", GAP, " ".join(text.split()))


def told_by(*parts: str) -> list[Told]:
    """Of all files below those folders or files of `Logic`, each message once."""
    unique: dict[str, Told] = {}
    for part in parts:
        place = ROOT / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            for one in told_in(path):
                unique.setdefault(one.message, one)
    return list(unique.values())
