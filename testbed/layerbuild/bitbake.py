# SPDX-License-Identifier: MIT
"""Running bitbake: progress lines while it works, one sentence if it fails, what it said at its end."""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from .. import cache
from ..cache import say
from ..errors import TestbedError
from .folder import Folder

PROGRESS_EVERY = 15.0  # seconds
LONGEST = 400  # characters of an error
_TASK = re.compile(r"Running (?:setscene )?task (\d+) of (\d+) \((?:.*/)?([^/]+?)(?:_[^_]*)?\.bb:(\w+)\)")
_SUMMARY = re.compile(r"Tasks Summary: Attempted (\d+) tasks of which (\d+) didn't need to be rerun and all succeeded")
_FETCH = re.compile(
    r"(?P<task>\S+ do_fetch): .*(?:Fetcher failure|Fetcher Error|FetchError|Unable to fetch|Network access disabled)"
    r".*?(?P<url>\b(?:https?|git|file)://[^\s'\";]+)"
)
# What apt and dpkg say of packages that can't be in one image.
_CLASH = re.compile(
    r"^ (\S+ : (?:Breaks|Conflicts|Depends): .+)$|(trying to overwrite '[^']+', which is also in package \S+)", re.M
)


@dataclass
class Outcome:
    """What a successful run said."""

    tasks: int = 0
    not_rerun: int = 0
    warnings: list[str] = field(default_factory=list)
    closing: str = ""


def run(folder: Folder, words: list[str], log: Path) -> Outcome:
    """Run bitbake with words as its arguments in a build folder; its output goes to ``log`` as it comes.

    Raises TestbedError if bitbake fails: a sentence with the first error and what mends it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        Progress(folder.name) as progress,
        log.open("w", encoding="utf-8") as sink,
        subprocess.Popen(
            folder.command(f"exec bitbake {' '.join(words)}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout
        for line in process.stdout:
            sink.write(line)
            sink.flush()
            progress.see(line)
    text = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode:
        raise TestbedError(explained(folder.name, text, log))
    return outcome(text)


def outcome(text: str) -> Outcome:
    """What bitbake's output says; raises TestbedError if it isn't that all succeeded."""
    found = _SUMMARY.search(text)
    if not found:
        raise TestbedError("bitbake ended without its summary of tasks; is it one of the supported releases?")
    warnings = [line.removeprefix("WARNING: ") for line in text.splitlines() if line.startswith("WARNING: ")]
    # each process that parses a recipe says it again
    return Outcome(int(found[1]), int(found[2]), list(dict.fromkeys(warnings)), found[0])


class Progress:
    """A line every PROGRESS_EVERY seconds, of the task that bitbake began last, from a thread of its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._now = "starts"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def see(self, line: str) -> None:
        """Take a line of bitbake's output."""
        if found := _TASK.search(line):
            self._now = f"task {found[1]} of {found[2]}, {found[3]} {found[4]}"
        elif line.startswith("Parsing recipes"):
            self._now = "parses recipes"

    def tell(self) -> None:
        """Say the line."""
        say(f"{self._name}: {self._now}")

    def _run(self) -> None:
        while not self._ended.wait(PROGRESS_EVERY):
            self.tell()


def explained(name: str, text: str, log: Path) -> str:
    """The sentence for a run that failed."""
    if "No space left on device" in text or cache.is_full():
        return f"{name}: {cache.full_disk()}"
    errors = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    first = errors[0] if errors else (text.strip().splitlines() or ["it said nothing"])[-1]
    fetched = _FETCH.search(first)
    if fetched:
        return (
            f"{name}: {fetched['task']} can't fetch {fetched['url']}; is the network there? "
            f'Else put it into a folder and set OE_SOURCES to that, see docs/testing.md. All of it: "{log}"'
        )
    task, install, _ = first.partition(": Unable to install packages")
    if install and (clash := _CLASH.search(text)):
        remedy = "mend RCONFLICTS, RDEPENDS or FILES of one of them, or IMAGE_INSTALL"
        return f'{name}: {task}: {clash[1] or clash[2]}; {remedy}. All of it: "{log}"'
    if "Please use a umask" in text or "Do not use Bitbake as root" in text:
        return f'{name}: the build root is spoiled; run "make clean-cache". All of it: "{log}"'
    return f'{name}: {first[:LONGEST]} All of it: "{log}"'
