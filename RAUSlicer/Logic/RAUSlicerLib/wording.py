"""What the panel says: progress, remaining time, the outcome of a run."""

from __future__ import annotations

import html
from dataclasses import dataclass, field

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import NOT_CHOSEN, Problem
from RAUSlicerLib.run import RunState
from RAUSlicerLib.trust import result_of


@dataclass(frozen=True)
class Notice:
    """kind: "info", "done", "warning" or "error". title: one line; lines: below it, smaller."""

    kind: str
    title: str
    lines: tuple[str, ...] = field(default=())

    def as_html(self) -> str:
        """Rich text; nothing of a node's name is taken for markup."""
        below = "".join(f"<div style='margin-top:3px'>{html.escape(line)}</div>" for line in self.lines if line)
        return f"<b>{html.escape(self.title)}</b>{below}"


def about(seconds: float) -> str:
    """A duration in words, rounded as one says it."""
    if seconds < 10:
        return _("a few seconds")
    if seconds < 90:
        return _("about {n} s").format(n=int(round(seconds / 5.0)) * 5)
    return _("about {n} min").format(n=max(2, int(round(seconds / 60.0))))


def progress_text(state: RunState) -> str:
    """The line under the progress bar."""
    phases = {
        "preparing": _("Preparing the images"),
        "starting": _("Starting the model process"),
        "loading": _("Loading the model and the references"),
        "writing": _("Writing the segments"),
        "cancelling": _("Cancelling"),
    }
    if state.phase != "running":
        return phases.get(state.phase, "")
    if not state.total or not state.done:
        return _("Segmenting")
    text = _("Slice {k} of {n}").format(k=state.done, n=state.total)
    return text if state.seconds_left is None else text + ", " + _("{time} left").format(time=about(state.seconds_left))


def progress_value(state: RunState) -> tuple[int, int]:
    """(value, maximum) of the bar; maximum 0 is a bar that only moves."""
    if state.phase == "running" and state.total:
        return state.done, state.total
    return (1, 1) if state.phase in ("writing", "done") else (0, 0)


def outcome(state: RunState) -> Notice:
    """What is said at the end of a run."""
    if state.phase == "failed":
        problem = state.problem or Problem(_("The run failed"))
        return problem_notice(problem, state.warnings)
    if state.phase == "cancelled":
        return Notice("info", _("Cancelled"), (_("The scene is as it was before the run."),))
    found = [one for one in state.report["structures"] if one["present"]]
    absent = [one["name"] for one in state.report["structures"] if not one["present"]]
    doubtful = [one.name for one in result_of("", state.report).doubtful]
    count = len(found)
    title = _("{n} structures segmented in {s} s") if count != 1 else _("{n} structure segmented in {s} s")
    lines = [_("Not found in the target: {names}").format(names=", ".join(absent))] if absent else []
    lines += [_("Check first: {names}").format(names=", ".join(doubtful))] if doubtful else []
    lines += [warning.rstrip(".") + "." for warning in state.warnings]
    kind = "warning" if lines else "done"
    used = state.report.get("provenance", {}).get("bank", {}).get("used", ())
    lines += [_("From the bank: {id} ({why})").format(id=one["id"][:8], why=one["reason"]) for one in used]
    lines.append(_("Check every slice before use."))
    return Notice(kind, title.format(n=count, s=f"{state.seconds:.0f}"), tuple(lines))


def problem_notice(problem: Problem, warnings: tuple[str, ...] = ()) -> Notice:
    hint = (problem.hint + ".",) if problem.hint else ()
    return Notice("info" if problem.kind == NOT_CHOSEN else "error", problem.message + ".", (*hint, *warnings))
