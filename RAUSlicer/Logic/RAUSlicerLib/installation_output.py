"""What pip and uv print while they install: how far they are, and in one line why they failed."""

from __future__ import annotations

import re
from collections import deque

from RAUSlicerLib.i18n import tr as _
from RAUSlicerLib.problems import Problem

COLLECTING = 0.85  # of a step is looking up and downloading, the rest is putting in place
MB = 1_000_000


class Output:
    """Follows one step. expected: how many packages it is about. lines: the last ones, for what went wrong."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.lines: deque[str] = deque(maxlen=60)
        self.done = 0.0
        self.text = ""
        self._seen: set[str] = set()
        self._file, self._part = "", 0.0
        self._rest: dict[str, bytes] = {}

    def feed(self, data: bytes, stream: str) -> bool:
        """Take a piece; whether there is news."""
        *lines, self._rest[stream] = re.split(rb"[\r\n]+", self._rest.get(stream, b"") + data)
        news = [self._line(line.decode("utf-8", "replace")) for line in lines if line.strip()]
        return any(news)

    def _line(self, line: str) -> bool:
        before = (self.text, self.done)
        if found := re.match(r"Progress (\d+) of (\d+)", line):
            self._progress(int(found.group(1)), int(found.group(2)))
        else:
            self.lines.append(line)
            self._words(line.strip())
        return (self.text, self.done) != before

    def _progress(self, size: int, total: int) -> None:
        self._part = size / total if total else 0.0
        sizes = _("{a} of {b} MB").format(a=f"{size / MB:.0f}", b=f"{total / MB:.0f}")
        self.text = _("Downloading {name}").format(name=self._file or "…") + f": {sizes}"
        self._advance()

    def _words(self, line: str) -> None:
        if found := re.match(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)", line):
            self._seen.add(found.group(1).lower())
            self._part = 0.0
            self.text = _("Looking up {name}").format(name=found.group(1))
            self._advance()
        elif found := re.match(r"(?:Downloading|Processing|Using cached) (\S+)", line):
            name = re.split(r"[/\\]", found.group(1))[-1].split("-")[0]
            self._file = name
            verb = _("Reading {name}") if line.startswith("Processing") else _("Downloading {name}")
            self.text = verb.format(name=name)
        elif line.startswith("Building wheel for "):
            self.text = _("Building {name}").format(name=line.split()[3])
        elif line.startswith(("Installing collected packages", "Prepared ")):
            self.done, self.text = COLLECTING, _("Putting the packages in place")
        elif "Retrying" in line:
            self.text = _("The connection broke; trying again")

    def _advance(self) -> None:
        whole = max(self.expected, len(self._seen), 1)
        at = max(0, len(self._seen) - 1) + self._part
        self.done = max(self.done, min(COLLECTING, COLLECTING * at / whole))


NETWORK = (
    "NewConnectionError|Name or service not known|getaddrinfo failed|nodename nor servname|Temporary failure in name"
    "|Connection refused|Network is unreachable|ConnectionResetError|Connection broken|ReadTimeout|ConnectTimeout"
    "|timed out|dns error|error sending request|NameResolutionError|IncompleteRead|RemoteDisconnected"
)
FAILURES = (
    ("DiskFull", r"No space left on device|Errno 28|WinError 112|[Dd]isk quota|not enough space"),
    ("Proxy", r"ProxyError|Cannot connect to proxy|407 Proxy|Tunnel connection failed|SOCKS"),
    ("Certificate", r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError|invalid peer certificate"),
    ("Hash", r"DO NOT MATCH THE HASHES|Hash mismatch|Hashes are required"),
    ("Refused", r"40[13] Client Error|HTTP error 40[13]|Unauthorized for url|status code 40[13]"),
    ("Network", NETWORK),
    ("Untrusted", r"is not a trusted or secure host"),
    ("Damaged", r"is invalid\b|BadZipFile|is not a valid wheel|not a zip file|has an invalid wheel|[Ii]nvalid wheel"),
    ("Unsuitable", r"is not a supported wheel"),
    ("Lacking", r"No matching distribution found|Could not find a version|no version of|Because .* was not found"),
    ("Permission", r"Permission denied|Errno 13|WinError 5\b|Access is denied|Read-only file system"),
    ("Killed", r"MemoryError|Killed"),
)


def problem_of(lines: list[str], offline: bool, phase: str) -> Problem:
    """Why a step failed, from its last lines."""
    text = "\n".join(lines)
    kind = next((kind for kind, pattern in FAILURES if re.search(pattern, text)), "Other")
    name = subject(text)
    if kind == "Lacking" and offline:
        told = _("The folder of wheels lacks {name} for this Python").format(name=name or _("a package"))
        return Problem(told, _("Add it to the folder, then press the button again"), kind)
    if kind == "Other":
        return other(lines, phase)
    message, hint = wordings()[kind]
    return Problem(message.format(name=name or _("A package")), hint, kind)


def wordings() -> dict[str, tuple[str, str]]:
    again = _("then press the button again: what is here already is kept")
    return {
        "DiskFull": (_("The disk is full"), _("Free some space") + ", " + again),
        "Proxy": (
            _("The proxy does not let the download through"),
            _("Correct its address here, or ask who runs it, {again}").format(again=again),
        ),
        "Certificate": (
            _("The certificate of the package index is not trusted, as behind some hospital proxies"),
            _("Have IT name its certificate to pip (PIP_CERT), or use a folder of wheels"),
        ),
        "Hash": (
            _("{name} differs from the file that is pinned by its checksum; nothing of it was installed"),
            _("Try again later; if it stays so, tell who runs the package index or made the folder"),
        ),
        "Refused": (
            _("The package index refuses the download"),
            _("Look after name and password of the index in pip's settings"),
        ),
        "Untrusted": (
            _("The package index is not reached by https, so pip does not take anything from it"),
            _("Give pip its https address, or have IT name it a trusted host in pip's settings"),
        ),
        "Network": (
            _("The package index cannot be reached"),
            _("Look after the network or give the proxy, {again}").format(again=again),
        ),
        "Damaged": (
            _("{name} is damaged: no file that can be unpacked"),
            _("Get it again") + ", " + again,
        ),
        "Unsuitable": (
            _("{name} is made for another system or Python"),
            _("Get the wheels for this system and Python"),
        ),
        "Lacking": (
            _("The package index lacks {name} for this Python"),
            _("Choose the other build of PyTorch, or install another Python"),
        ),
        "Permission": (
            _("A file of the environment cannot be written"),
            _("Close other programs that use it, or set RAU_ENVIRONMENT to a folder of yours"),
        ),
        "Killed": (_("The memory of this computer did not suffice"), _("Close other programs, then try again")),
    }


def subject(text: str) -> str:
    """The package or file that the last complaint is about."""
    for pattern in (
        r"No matching distribution found for ([A-Za-z0-9._+=-]+)",
        r"satisfies the requirement ([A-Za-z0-9._+=-]+)",
        r"wheel[:']? '?\"?[^'\"\s]*?([A-Za-z0-9._+-]+\.whl)",
        r"([A-Za-z0-9._+-]+\.whl)",
        r"^\s+([A-Za-z0-9._-]+==\S+) from ",
    ):
        found = re.findall(pattern, text, re.M)
        if found:
            return found[-1].rstrip(".,;:")
    return ""


def other(lines: list[str], phase: str) -> Problem:
    """A failure of no known kind: the tool's own last word of it."""
    said = [line.strip() for line in lines if re.match(r"\s*(ERROR|error)\b|.*(Error|Exception): ", line)]
    last = re.sub(r"^(ERROR|error):?\s*", "", (said or lines or [""])[-1].strip())[:200]
    if phase == "checking":
        hint = _("Press Repair; if it stays so, choose the build for the CPU")
        return Problem(_("The environment was made, but does not work") + (f": {last}" if last else ""), hint)
    text = _("The set-up failed") + (f": {last}" if last else "")
    return Problem(text, _("Press the button again; if it stays so, report this line"))
