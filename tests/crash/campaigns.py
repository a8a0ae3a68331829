"""Many disturbed conversions in a row: faults, ends by signals, full disks. Each returns how often it ended how."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.crash.harness import KINDS, MODES, Prepared, Server, faults

# Allocations are many and alike.
MEMORY_STEP = 3
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def inject_faults(cases: Sequence[Prepared], seed: int, most: int | None = None) -> Counter[str]:
    """Every call that a conversion makes fails, in every way, once and from there on; or `most` of these faults."""
    rng = random.Random(seed)
    by_kind: dict[str, list[tuple[Prepared, str, int, int]]] = {kind: [] for kind in KINDS}
    for case in cases:
        calls = case.count_calls()
        for kind, mode, error in faults():
            step = MEMORY_STEP if kind == "memory" else 1
            # One more than there are: the run passes.
            by_kind[kind] += [(case, mode, n, error) for n in range(1 + rng.randrange(step), calls[kind] + 2, step)]
    for points in by_kind.values():
        rng.shuffle(points)
    counts: Counter[str] = Counter()
    for kind, (case, mode, n, error) in itertools.islice(_in_turn(by_kind), most):
        told = f"{case.case.name}: {kind} {n} {mode} {errno.errorcode.get(error, '')}"
        answer = case.with_fault(kind, mode, n, error)
        ending = case.check_fault(answer, told)
        if answer["faults"] == 0:
            assert ending in ("succeeded", "FAILED"), told
            counts["not reached"] += 1
        else:
            counts[f"{kind}: {ending}"] += 1
            counts["faults"] += 1
    return counts


def _in_turn(by_kind: dict[str, list[tuple[Prepared, str, int, int]]]) -> Iterator[tuple[str, tuple]]:
    """One of each kind, again and again, until all are drawn."""
    for points in itertools.zip_longest(*by_kind.values()):
        yield from ((kind, point) for kind, point in zip(by_kind, points, strict=True) if point is not None)


def send_signals(server: Server, seed: int, most: int) -> Counter[str]:
    """Conversions ended at a random moment, or as they make a random call: SIGKILL mostly, SIGTERM and SIGINT."""
    rng = random.Random(seed)
    calls = [case.count_calls() for case in server.cases]
    seconds = [case.run()["seconds"] for case in server.cases]
    counts: Counter[str] = Counter()
    for i in range(most):
        at = i % len(server.cases)
        case, number = server.cases[at], rng.choice(_SIGNALS)
        case.reset()
        if rng.random() < 0.5:
            after = rng.uniform(0, 1.2 * seconds[at])
            told = f"{case.case.name}: {number.name} after {after:.4f} s"
            answer = case.run(after=after, signal=number)
        else:
            kind = rng.choice([kind for kind in KINDS if calls[at][kind]])
            n = rng.randint(1, calls[at][kind])
            told = f"{case.case.name}: {number.name} at {kind} {n}"
            answer = case.run(arm=[KINDS.index(kind), MODES.index("signal"), n, number])
        counts[f"{number.name}: {case.check_killed(answer, told)}"] += 1
        counts["signals"] += 1
    return counts


def fill_disks(server: Server, seed: int, most: int) -> Counter[str]:
    """Conversions that may write so many bytes and no more: in all (a full disk), or into one file (RLIMIT_FSIZE)."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for i in range(most):
        case = server.cases[i % len(server.cases)]
        if i // len(server.cases) % 2 == 0:
            size = rng.randrange(sum(map(len, case.new.values())))
            told = f"{case.case.name}: room for {size} bytes"
            answer = case.run(arm=[KINDS.index("write"), MODES.index("limit"), size, errno.ENOSPC])
            is_met = answer["faults"] > 0  # padding is not written
        else:
            size = rng.randrange(max(map(len, case.new.values())))
            told = f"{case.case.name}: files of {size} bytes"
            answer = case.run(file_bytes=size)
            is_met = True
        assert case.check_fault(answer, told) in ("refused" if is_met else "succeeded", "FAILED"), told
        counts[f"{case.case.name}: {'refused' if is_met else 'not met'}"] += 1
        counts["sizes"] += is_met
    return counts


def fill_tmpfs(server: Server, seed: int, most: int) -> Counter[str]:
    """The same on file systems of a given size, mounted over the outputs' folders; needs the right to mount.

    Room is asked for and found, and is gone by the time of the writing: reserved at once, or written into.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    page = os.sysconf("SC_PAGESIZE")
    for case in server.cases:
        sizes = rng.sample(range(1, sum(map(len, case.new.values())) // page + 24), most // len(server.cases))
        for n_pages in sizes:
            with case.on_tmpfs((n_pages + sum(len(data) // page + 2 for data in case.old.values())) * page):
                # As if the file system could not reserve, or untouched.
                mode, n = rng.choice([("onwards", 1), ("once", 1 << 30)])
                answer = case.with_fault("room", mode, n, errno.EOPNOTSUPP)
                ending = case.check_fault(answer, f"{case.case.name}: {n_pages} pages")
            counts[f"{case.case.name}: {ending}"] += 1
            counts["sizes"] += 1
    return counts
