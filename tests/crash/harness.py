"""Conversions that are disturbed, and what must be true afterwards. The disturbing itself: server.py."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastconv.layout import resume_journal
from fastconv.layout.kept_file import JOURNAL_SUFFIX
from tests import models
from tests.e2e.conftest import write_adapter

HERE = Path(__file__).parent
# As fault_library.cpp numbers them.
KINDS = (
    *("open", "read", "write", "map", "advise", "room", "sync"),
    *("name", "memory", "duplicate", "thread", "stat", "lock"),
)
MODES = ("once", "onwards", "short", "signal", "limit")

# What the system may say to a call of each kind.
ERRORS = {
    "open": (errno.EMFILE, errno.EIO, errno.ENOSPC),
    "read": (errno.EIO,),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "map": (errno.ENOMEM,),
    "advise": (errno.EINVAL,),
    "room": (errno.ENOSPC, errno.EIO, errno.EOPNOTSUPP),
    "sync": (errno.EIO, errno.ENOSPC),
    "name": (errno.EIO, errno.ENOSPC, errno.EINVAL),
    "memory": (errno.ENOMEM,),
    "duplicate": (errno.EMFILE,),
    "thread": (errno.EAGAIN,),
    "stat": (errno.EIO,),
    "lock": (errno.ENOLCK,),
}
# Calls that a signal may cut short; a caller tries again.
INTERRUPTIBLE = ("open", "read", "write", "room", "sync")
SHAPE = models.LlamaShape(n_vocab=320, n_embd=96, n_ff=256, n_layer=2)
LEFTOVER = re.compile(r"(.*/)?\..+\.[0-9a-f]{8}\.fastconv-partial(/.*)?")
# What --resume keeps: unfinished outputs and the journal.
KEPT = re.compile(r"(.*/)?\.[^/]+\.resume(-partial(/.*)?)?")


@dataclass(frozen=True)
class Case:
    """A command line whose outputs are `out/...`. old: whether they stand there already, with other contents.

    resumes: an interrupted run, which left its unfinished outputs and its journal.
    """

    name: str
    arguments: tuple[str, ...]
    old: bool
    lora: bool
    resumes: bool = False

    def out(self, folder: Path) -> Path:
        return folder / f"out {self.name}"

    def command(self, folder: Path) -> list[str]:
        adapter = ["--lora", str(folder / "adapter")] if self.lora else []
        given = [argument.replace("OUT", str(self.out(folder))) for argument in self.arguments]
        resume = ["--resume"] if self.resumes else []
        options = [*given, *adapter, *resume, "--quiet", "--overwrite", "--concurrency", "2"]
        return ["convert", str(folder / "model"), *options]


CASES = (
    Case("gguf", ("--outfile", "OUT/m.gguf", "--outtype", "q4_0"), old=True, lora=False),
    Case("gguf lora", ("--outfile", "OUT/m-{type}.gguf", "--outtype", "q4_0,f16", "--checksum"), old=True, lora=True),
    Case("gguf unsynced", ("--outfile", "OUT/m.gguf", "--outtype", "q8_0", "--no-sync"), old=True, lora=False),
    Case("ggjt", ("--to", "ggjt-v3", "--outfile", "OUT/m.bin", "--outtype", "q4_0"), old=False, lora=False),
    Case("ggjt lora", ("--to", "ggjt-v3", "--outfile", "OUT/m.bin", "--outtype", "q8_0"), old=True, lora=True),
    Case("folder", ("--to", "hf", "--outfile", "OUT/m", "--shard-size", "200KB"), old=False, lora=False),
    Case("folder lora", ("--to", "hf", "--outfile", "OUT/m", "--shard-size", "200KB"), old=True, lora=True),
)
RESUMED = tuple(
    replace(case, name=f"{case.name} resumed", resumes=True) for case in CASES if case.name.endswith(("lora", "folder"))
)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file and folder below, with contents."""
    return {
        str(path.relative_to(folder)): b"" if path.is_dir() else path.read_bytes() for path in sorted(folder.rglob("*"))
    }


def build_library(folder: Path) -> Path:
    library = folder / "faults.so"
    command = ["g++", "-std=c++17", "-O1", "-fno-builtin", "-shared", "-fPIC", str(HERE / "fault_library.cpp")]
    subprocess.run([*command, "-o", str(library), "-ldl"], check=True)
    return library


class Server:
    """server.py, with the library preloaded, in a folder with a model and an adapter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failures: list[str] | None = None  # noted instead of raised
        models.write_hf(folder / "model", SHAPE, shards=2)
        write_adapter(folder / "adapter", SHAPE)
        environment = os.environ | {
            "LD_PRELOAD": str(build_library(folder)),
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path]),
        }
        environment.pop("PYTHONFAULTHANDLER", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=HERE.parents[1],
        )
        self.cases = [Prepared(self, case) for case in CASES]

    @functools.cached_property
    def resumed(self) -> list[Prepared]:
        return [Prepared(self, case) for case in RESUMED]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request |= {"folder": str(self.folder), "stderr": str(self.folder / "stderr"), "kinds": len(KINDS)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        assert self._process.wait(60) == 0


def noted(check: Callable[[Prepared, dict[str, Any], str], str]) -> Callable[[Prepared, dict[str, Any], str], str]:
    """Has a failed check noted where its server does that, so that the campaign goes on."""

    @functools.wraps(check)
    def checked(self: Prepared, answer: dict[str, Any], told: str) -> str:
        try:
            return check(self, answer, told)
        except AssertionError as error:
            if self.server.failures is None:
                raise
            self.server.failures.append(str(error))
            self.reset()
            return "FAILED"

    return checked


class Prepared:
    """A case with its old outputs and the new ones that a run without disturbance makes."""

    def __init__(self, server: Server, case: Case) -> None:
        self.server, self.case = server, case
        self.out = case.out(server.folder)
        self.out.mkdir()
        self._command = case.command(server.folder)
        server.ask(warm=True, arguments=self._command)
        self.new = snapshot(self.out)
        older = {name: b"the older " + name.encode() for name, data in self.new.items() if data}
        self.old = {name: older.get(name, b"") for name in self.new} if case.old else {}
        self.left: dict[str, bytes] = {}
        self.reset()
        if case.resumes:
            self._interrupt()

    def _interrupt(self) -> None:
        """Has a run stop half way, and notes what it leaves."""
        n_writes = self.count_calls()["write"]
        claims: list[object] = []
        for n in range(n_writes // 2, n_writes):  # until a piece has got done before
            self.left = {}
            self.reset()
            answer = self.with_fault("write", "once", n, errno.ENOSPC)
            assert answer["code"] == 1, answer
            self.left = {name: data for name, data in snapshot(self.out).items() if KEPT.fullmatch(name)}
            [journal] = [data for name, data in self.left.items() if name.endswith(JOURNAL_SUFFIX)]
            facts, claims, _ = resume_journal._read(journal)
            assert facts is not None
            if len(claims) > 2:
                break
        assert claims, "nothing was claimed that could be resumed"
        told = self.server.ask(arguments=[option for option in self._command if option != "--quiet"])
        assert "resumed an interrupted run: " in told["stderr"], told
        self.reset()

    def reset(self) -> None:
        """The old outputs, what an interrupted run left, and nothing else."""
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._fill()

    def _fill(self) -> None:
        for name, data in (self.old | self.left).items():
            path = self.out / name
            if data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    @contextlib.contextmanager
    def on_tmpfs(self, size: int) -> Iterator[None]:
        """A file system of so many bytes in the place of the outputs' folder, with the old outputs in it."""
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.out)], check=True)
        try:
            self._fill()
            yield
        finally:
            subprocess.run(["umount", str(self.out)], check=True)

    def run(self, **how: Any) -> dict[str, Any]:
        return self.server.ask(arguments=self._command, **how)

    def count_calls(self) -> dict[str, int]:
        """By kind, of a run that is left alone."""
        answer = self.run(arm=[-1, 0, 0, 0])
        assert answer["code"] == 0, answer
        self.reset()
        return dict(zip(KINDS, answer["calls"], strict=True))

    def with_fault(self, kind: str, mode: str, n: int, error: int) -> dict[str, Any]:
        may_revert = (kind, mode) != ("name", "onwards")
        return self.run(arm=[KINDS.index(kind), MODES.index(mode), n, error]) | {"may_revert": may_revert}

    @noted
    def check_fault(self, answer: dict[str, Any], told: str) -> str:
        """After a run with a fault: nothing was done, and one line says why, or all was done. Returns which."""
        code, stderr = answer["code"], answer["stderr"]
        assert not answer.get("leaks"), f"{told}: {answer}"
        assert code in (0, 1), f"{told}: {answer}"
        found = snapshot(self.out)
        if code == 0:
            assert stderr == "", f"{told}: {answer}"
            # A journal that could not be looked at is not removed; the next run does that.
            journals = {name for name in found if self.case.resumes and name.endswith(JOURNAL_SUFFIX)}
            assert found.keys() - journals == self.new.keys(), f"{told}: {sorted(found)}"
            assert {name: found[name] for name in self.new} == self.new, told
            if journals:
                self._check_next(told)
            self.reset()
            return "succeeded"
        assert re.fullmatch(r"fastconv: error: [^\n]+\n", stderr), f"{told}: {stderr}"
        if self.case.resumes:
            found = {name: data for name, data in found.items() if not KEPT.fullmatch(name)}
        if "; replaced already, by whole files: " in stderr:
            # A disk that takes no names any more does not take those back either.
            assert not answer["may_revert"], told
            assert found.keys() == self.new.keys(), f"{told}: {sorted(found)}"
            assert all(data in (self.old.get(name), self.new[name]) for name, data in found.items()), told
            ending = "refused half way"
        else:
            assert found.keys() == self.old.keys(), f"{told}: {sorted(found)}"
            assert found == self.old, told
            ending = "refused"
        if self.case.resumes:
            self._check_next(told)
        elif ending != "refused":
            self.reset()
        return ending

    def _check_next(self, told: str) -> None:
        """The same command, undisturbed: it succeeds and leaves its outputs alone in the folder."""
        answer = self.run()
        assert answer["code"] == 0, f"{told}: {answer}"
        found = snapshot(self.out)
        assert found.keys() == self.new.keys(), f"{told}: {sorted(found)}"
        assert found == self.new, told
        self.reset()

    @noted
    def check_killed(self, answer: dict[str, Any], told: str) -> str:
        """After a run that was ended: whole files only, and the next run succeeds and leaves nothing else."""
        found = snapshot(self.out)
        left = {name for name in found if LEFTOVER.fullmatch(name)}
        for name, data in found.items():
            if name not in left:
                assert data in (self.old.get(name), self.new.get(name)), f"{told}: {name}: {answer}"
        if answer["code"] >= 0:  # it could unwind
            assert not left, f"{told}: {sorted(left)}: {answer}"
            assert answer["code"] in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM), f"{told}: {answer}"
        ending = "after it was done" if found == self.new else "with leftovers" if left else "before anything was made"
        self._check_next(told)
        return ending


def faults() -> list[tuple[str, str, int]]:
    """(kind, mode, error number) of all that the system may do to a call."""
    found = []
    for kind in KINDS:
        found += itertools.product([kind], ["once", "onwards"], ERRORS[kind])
        if kind in INTERRUPTIBLE:
            found.append((kind, "once", errno.EINTR))
        if kind in ("read", "write"):
            found.append((kind, "short", 0))
    return found
