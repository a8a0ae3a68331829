"""A control group of the tests' own, with a limit of memory: of version 2 or 1, whichever is to be had."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


class NoGroupError(Exception):
    """Why there is none."""


class Group:
    """folder: of the group, which the caller removes. limit_file: in it."""

    def __init__(self, folder: Path, limit_file: str) -> None:
        self.folder = folder
        self._limit = folder / limit_file

    def set_limit(self, n_bytes: int) -> None:
        self._limit.write_text(str(n_bytes))

    def join(self) -> None:
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def run(self, command: Sequence[str | Path], limit: int) -> subprocess.CompletedProcess[str]:
        """In the group from its first moment."""
        self.set_limit(limit)
        return subprocess.run(
            [*map(str, command)], preexec_fn=self.join, capture_output=True, text=True, timeout=200, check=False
        )

    def remove(self) -> None:
        """Ends what is in it still."""
        for _ in range(200):
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):  # the kernel lets go of a process somewhat later
                self.folder.rmdir()
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.folder} cannot be removed")


@contextlib.contextmanager
def control_group() -> Iterator[Group]:
    """Below the group of this process, or below one above it. Raises NoGroupError."""
    refusals = []
    for make in _ways():
        with contextlib.ExitStack() as stack:
            try:
                group = make(stack)
                # Limits that are not kept, and groups that cannot be joined, are of no use.
                group.run([sys.executable, "-c", "pass"], 64 << 20).check_returncode()
            except (OSError, subprocess.SubprocessError) as error:
                refusals.append(str(error))
                continue
            yield group
            return
    raise NoGroupError("; ".join(dict.fromkeys(refusals)) or "no controller of memory is mounted")


def _ways() -> Iterator[Callable[[contextlib.ExitStack], Group]]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            if controllers == "" and (ROOT / folder / "cgroup.subtree_control").exists():
                yield lambda stack, parent=ROOT / folder: _second(parent, stack)
            elif "memory" in controllers.split(",") and (ROOT / "memory" / folder).is_dir():
                yield lambda stack, parent=ROOT / "memory" / folder: _first(parent, stack)


def _first(parent: Path, stack: contextlib.ExitStack) -> Group:
    return _made(parent, "memory.limit_in_bytes", stack)


def _second(parent: Path, stack: contextlib.ExitStack) -> Group:
    control = parent / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")
        stack.callback(control.write_text, "-memory")
    return _made(parent, "memory.max", stack)


def _made(parent: Path, limit_file: str, stack: contextlib.ExitStack) -> Group:
    folder = parent / f"fastconv-test-{os.getpid()}"
    folder.mkdir()
    group = Group(folder, limit_file)
    stack.callback(group.remove)
    return group
