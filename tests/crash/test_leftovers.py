"""Temporaries of dead runs are recognised and removed, those of live ones left alone; names are taken together."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastconv import _native
from fastconv.errors import OutputError
from fastconv.layout.commit import commit_all
from fastconv.layout.leftovers import leftover_bytes, remove_leftovers, temporary_name
from fastconv.layout.output_file import OutputFile
from fastconv.layout.output_folder import OutputFolder

OPEN = """
import sys, time
from fastconv.layout.output_file import OutputFile
from fastconv.layout.output_folder import OutputFolder
outputs = OutputFolder(sys.argv[1] + "/folder"), OutputFile(sys.argv[1] + "/file", 8192)
for output in outputs:
    output.open()
print("open", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has a temporary file and a temporary folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def opened(path: Path, data: bytes, *, overwrite: bool = False) -> OutputFile:
    out = OutputFile(str(path), len(data), overwrite=overwrite)
    out.open()
    out.write(data, 0)
    return out


def test_a_live_run_is_left_alone(tmp_path: Path, other_run: subprocess.Popen[str]) -> None:
    before = names(tmp_path)
    assert len(before) == 2
    remove_leftovers(str(tmp_path))
    assert leftover_bytes(str(tmp_path)) == 0
    with opened(tmp_path / "file", b"new") as out, OutputFolder(str(tmp_path / "folder")) as folder:
        folder.open()
        commit_all([out], [folder])
    assert names(tmp_path) == before | {"file", "folder"}


def test_what_a_dead_run_left_is_removed_by_the_next(tmp_path: Path, other_run: subprocess.Popen[str]) -> None:
    other_run.kill()
    other_run.wait()
    assert len(names(tmp_path)) == 2
    assert leftover_bytes(str(tmp_path), "file") >= 8192
    with opened(tmp_path / "file", b"new") as out, OutputFolder(str(tmp_path / "folder")) as folder:
        folder.open()
        commit_all([out], [folder])
    assert names(tmp_path) == {"file", "folder"}


def test_only_our_names_are_removed(tmp_path: Path) -> None:
    others = {".x.fastconv-partial", "x.01234567.fastconv-partial", ".x.0123456g.fastconv-partial", ".y" + "x" * 9}
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / temporary_name("link")).symlink_to("target")
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / temporary_name("x")).write_bytes(b"")
    (tmp_path / temporary_name("other")).write_bytes(b"")
    before = names(tmp_path)
    remove_leftovers(str(tmp_path), "x")
    assert len(before - names(tmp_path)) == 1
    remove_leftovers(str(tmp_path))
    assert others | {"target"} < names(tmp_path)
    assert len(before - names(tmp_path)) == 2  # a link is nobody's temporary


def test_a_temporary_that_is_taken_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a file and locking it, another process may look: then there is another file."""
    import fcntl

    flock, taken = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not taken:
            taken.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            os.unlink(taken[0])
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with opened(tmp_path / "file", b"whole") as out:
        commit_all([out])
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert len(taken) == 1


def in_two_steps(*_: bytes) -> None:
    raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("steps", [1, 2])
def test_names_are_taken_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, overwrite: bool, steps: int
) -> None:
    """The second cannot have its name, so the first gives its own back."""
    if steps == 2:
        monkeypatch.setattr(_native, "rename_new", in_two_steps)
        monkeypatch.setattr(_native, "exchange_names", in_two_steps)
    old = overwrite and steps == 1  # without an exchange the older file is gone
    if old:
        (tmp_path / "one").write_bytes(b"old")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "inside").write_bytes(b"")
    before = names(tmp_path)
    with (
        opened(tmp_path / "one", b"new", overwrite=overwrite) as one,
        opened(tmp_path / "two", b"new") as two,
        pytest.raises(OutputError, match="two: exists already"),
    ):
        commit_all([one, two])
    assert names(tmp_path) == before
    assert not old or (tmp_path / "one").read_bytes() == b"old"


def test_a_failed_folder_gives_the_files_beside_it_back(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with (
        opened(tmp_path / "file", b"new", overwrite=True) as file,
        OutputFolder(str(tmp_path / "folder")) as folder,
    ):
        folder.open()
        with opened(Path(folder.place("inside")), b"new") as inside:
            (tmp_path / "folder").mkdir()
            with pytest.raises(OutputError, match="appeared during the run"):
                commit_all([file, inside], [folder])
    assert names(tmp_path) == {"file", "folder"}
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.parametrize("make", [lambda path: OutputFile(path, 3), OutputFolder], ids=["file", "folder"])
def test_ctrl_c_while_something_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[str], OutputFile | OutputFolder]
) -> None:
    """It is not closed twice: its number may be another file's by then."""
    closed = []
    close = os.close

    def interrupted(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)
        if len(closed) == 1:
            raise KeyboardInterrupt

    def run() -> None:
        with make(str(tmp_path / "out")) as out:
            out.open()
            monkeypatch.setattr(os, "close", interrupted)
            out.finish()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(closed) == 1


def test_what_is_refused_when_a_file_is_closed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems of networks do, which take writes on trust."""

    def fail(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with OutputFile(str(tmp_path / "file"), 3, is_synced=False) as out:
        out.open()
        out.write(b"new", 0)
        with monkeypatch.context() as patch:
            patch.setattr(os, "close", fail)
            with pytest.raises(OutputError, match="Disk quota exceeded"):
                out.sync()
    assert names(tmp_path) == set()


def test_a_folder_that_cannot_be_synced_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has its name by then, so the run succeeded."""
    out = opened(tmp_path / "file", b"new")
    out.sync()

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    [note] = commit_all([out])
    assert "cannot be synced (Input/output error)" in note
    assert (tmp_path / "file").read_bytes() == b"new"
