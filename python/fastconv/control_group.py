"""What the control groups (v1 or v2) of this process allow: processors, and memory. Knows nothing of conversions.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fastconv.errors import PlanError
from fastconv.record import record

_MEMBERSHIP, _ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# What control groups say where there is no limit is more than any machine has.
_UNLIMITED_BYTES = 1 << 60
# Of memory.stat: what the kernel cannot take back, as it can pages of files.
_HELD_V2 = ("anon", "shmem", "slab_unreclaimable", "kernel_stack", "pagetables")
_HELD_V1 = ("total_rss", "total_shmem")

_Value = TypeVar("_Value")


@record(eq=True)
class MemoryRoom:
    """limit: bytes that the tightest group leaves this process beside what others in it hold. free: of that, not held
    yet. Pages of mapped files are not counted: the kernel takes them back."""

    limit: int
    free: int

    def check(self, n_bytes: int, what: str, file: str | None = None) -> None:
        """Raises PlanError where n_bytes more than are held do not fit."""
        if n_bytes > self.free:
            raise PlanError(
                f"the memory that the control group leaves is too little for {what}",
                file=file,
                found=f"{self.limit} bytes",
                expected=f"at least {self.limit - self.free + n_bytes}",
            )


def memory_room() -> MemoryRoom | None:
    """None where no control group has a limit."""
    own = own_bytes()
    # The kernel's counts lag behind: what this process holds it knows better.
    limits = [limit - max(0, held - own) for limit, held in memory_values(_MEMBERSHIP, _ROOT)]
    return MemoryRoom(min(limits), min(limits) - own) if limits else None


def own_bytes() -> int:
    """Memory of this process that no file backs."""
    return sum(n << 10 for name, n in _numbers(Path("/proc/self/status"), ":") if name in ("RssAnon", "RssShmem"))


def memory_values(membership: Path, root: Path) -> Iterator[tuple[int, int]]:
    """Bytes that each group may hold, and that it holds for good."""
    return _values(membership, root, "memory", _memory_v2, _memory_v1)


def cpu_quotas(membership: Path = _MEMBERSHIP, root: Path = _ROOT) -> Iterator[float]:
    """CPUs allowed by each control group."""
    return _values(membership, root, "cpu", _quota_v2, _quota_v1)


def _values(
    membership: Path,
    root: Path,
    controller: str,
    v2: Callable[[Path], _Value | None],
    v1: Callable[[Path], _Value | None],
) -> Iterator[_Value]:
    """What control groups of either version say, from the process's own up to the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, read = root, v2
        elif controller in controllers.split(","):
            base, read = root / controller, v1
        else:
            continue
        # In a container the path may be the host's; then the group's own files are those at the root.
        group = Path(path.lstrip("/"))
        for folder in (group, *group.parents):
            value = read(base / folder)
            if value is not None:
                yield value


def _memory_v2(folder: Path) -> tuple[int, int] | None:
    return _memory(folder / "memory.max", folder / "memory.stat", _HELD_V2)


def _memory_v1(folder: Path) -> tuple[int, int] | None:
    return _memory(folder / "memory.limit_in_bytes", folder / "memory.stat", _HELD_V1)


def _memory(limit_file: Path, stat: Path, held: tuple[str, ...]) -> tuple[int, int] | None:
    try:
        limit = int(limit_file.read_text())
    except (OSError, ValueError):  # "max", for one
        return None
    return (limit, sum(n for name, n in _numbers(stat) if name in held)) if limit < _UNLIMITED_BYTES else None


def _numbers(file: Path, mark: str = "") -> Iterator[tuple[str, int]]:
    """Name and number of every line that has them."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, number, *_ = *line.split(), "", ""
        if number.isdecimal():
            yield name.removesuffix(mark), int(number)


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
