"""What the scene knows of the patient, so that nothing which leaves the scene repeats it. Never written, never told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import slicer

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

NAME, NUMBER, BIRTH = "DICOM.PatientName", "DICOM.PatientID", "DICOM.PatientBirthDate"
SHORTEST_WORD, SHORTEST_NUMBER = 3, 4


def plain(text: str) -> str:
    """Letters and digits in lower case, words apart by one space."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def known_of(volume: Any) -> set[str]:
    """Words and numbers that name the patient of a volume: of the subject hierarchy above it."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = tree.GetItemByDataNode(volume) if tree else 0
    found: set[str] = set()
    while item and item != tree.GetSceneItemID():
        names = [tree.GetItemAttribute(item, NAME) or ""]
        names += [tree.GetItemName(item)] if tree.GetItemLevel(item) == "Patient" else []
        for name in names:
            found |= {one for one in plain(name).split() if len(one) >= SHORTEST_WORD and not one.isdigit()}
        number = plain(tree.GetItemAttribute(item, NUMBER) or "").replace(" ", "")
        found |= {number} if len(number) >= SHORTEST_NUMBER else set()
        born = plain(tree.GetItemAttribute(item, BIRTH) or "").replace(" ", "")
        found |= {born, born[6:8] + born[4:6] + born[:4], born[4:8] + born[:4]} if len(born) == 8 else set()
        item = tree.GetItemParent(item)
    return found


def refuse(volume: Any, texts: Mapping[str, str]) -> None:
    """Raises Problem where one of the texts (by what it is) repeats what names the patient."""
    known = known_of(volume)
    for what, text in texts.items():
        words = plain(text)
        joined = words.replace(" ", "")
        if any(f" {one} " in f" {words} " or (any(c.isdigit() for c in one) and one in joined) for one in known):
            hint = _("Say it without what names the patient")
            raise Problem(_("{what} repeats what the scene says of the patient").format(what=what), hint)


def without_names(texts: tuple[str, ...], nodes: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts with a word for each node in place of its name, which is often the patient's. nodes: word -> node."""
    found = []
    for text in texts:
        for word, node in nodes.items():
            name = node.GetName() if node is not None else ""
            text = text.replace(name, word) if name else text
        found.append(text)
    return tuple(found)
