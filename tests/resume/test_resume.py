"""An interrupted run goes on where it stopped, and its files are those of an uninterrupted one."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastconv
from fastconv import _native
from fastconv.errors import NonFiniteError, OutputError
from fastconv.layout import output_folder, provenance, run_facts
from tests import imatrices, models
from tests.e2e.conftest import write_adapter, write_wide
from tests.models import WIDE
from tests.resume.interrupted import contents, resume_note, stop


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_wide(tmp_path / "model")


def write_imatrix(path: Path) -> Path:
    from tests.e2e.conftest import gguf_name

    shapes = {gguf_name(name, WIDE.n_layer): shape for name, shape in WIDE.tensor_shapes().items() if len(shape) > 1}
    imatrices.write_gguf(path, imatrices.random_entries({k: v for k, v in shapes.items() if k.startswith("blk")}))
    return path


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "gguf": ("m.gguf", {"outtype": "q4_0"}),
    "several": ("m-{type}.gguf", {"outtype": "q4_0,f16,q6_k", "checksum": True}),
    "lora": ("m.gguf", {"outtype": "q4_k_m", "lora": True, "threads": 2}),
    "imatrix": ("m.gguf", {"outtype": "q4_0", "imatrix": True}),
    "ggjt": ("m.bin", {"outtype": "q4_0", "to": "ggjt", "lora": True}),
    "hf": ("m", {"to": "hf", "outtype": "f16", "lora": True, "shard_size": 1 << 20, "checksum": True}),
    "hf-bin": ("m", {"to": "hf", "weights_format": "bin", "lora": True}),
    "litgpt": ("m", {"to": "litgpt"}),
}


@pytest.mark.parametrize("n_done", [10, 99])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_gives_the_same_files(model: Path, tmp_path: Path, case: str, n_done: int) -> None:
    name, options = CASES[case]
    options = dict(options)
    if options.pop("lora", False):
        options["lora"] = model / "adapter"
    if options.get("imatrix"):
        options["imatrix"] = write_imatrix(tmp_path / "imatrix.gguf")
    whole, target = tmp_path / "whole", tmp_path / "target"
    whole.mkdir(), target.mkdir()
    expected = fastconv.convert(model, whole / name, **options)

    stop(n_done, model, target / name, **options)
    left = [file for file in names_in(target) if not file.startswith(".")]
    assert not left
    result = fastconv.convert(model, target / name, resume=True, **options)

    assert contents(target) == contents(whole)
    if n_done == 0:
        assert resume_note(result) == ""
    else:
        note = re.fullmatch(r"resumed an interrupted run: (\d+) of (\d+) pieces were done", resume_note(result))
        assert note is not None
        assert int(note[1]) == min(n_done, int(note[2]))
        assert int(note[2]) >= 17
    assert result.delta_ratios == pytest.approx(expected.delta_ratios, rel=1e-12)
    assert [output.sha256 for output in result.outputs] == [output.sha256 for output in expected.outputs]


def test_a_run_can_be_interrupted_often(model: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    target = tmp_path / "target" / "m.gguf"
    fastconv.convert(model, tmp_path / "whole.gguf", outtype="q5_0")
    for _ in range(5):
        stop(3, model, target, outtype="q5_0")
    result = fastconv.convert(model, target, outtype="q5_0", resume=True)
    assert resume_note(result) == "resumed an interrupted run: 15 of 21 pieces were done"
    assert target.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert names_in(tmp_path / "target") == {"m.gguf"}


def test_into_a_folder_that_exists(model: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine.txt").write_text("kept")
    (target / "config.json").write_text("old")
    fastconv.convert(model, tmp_path / "whole", to="hf", outtype="f16")
    stop(7, model, target, to="hf", outtype="f16", overwrite=True)
    assert (target / "config.json").read_text() == "old"
    result = fastconv.convert(model, target, to="hf", outtype="f16", overwrite=True, resume=True)
    assert resume_note(result).endswith(": 7 of 21 pieces were done")
    assert contents(target) == contents(tmp_path / "whole") | {"mine.txt": b"kept"}
    assert not [name for name in names_in(tmp_path) if name.endswith((".resume", ".resume-partial"))]


def test_interrupted_while_files_of_a_folder_take_their_names(model: Path, tmp_path: Path) -> None:
    fastconv.convert(model, tmp_path / "whole", to="hf", outtype="f16", checksum=True)
    stop(21, model, tmp_path / "target", to="hf", outtype="f16", checksum=True)
    (kept,) = tmp_path.glob(".target.resume-partial")
    file = next(kept.glob("*model.safetensors*"))
    file.rename(kept / "model.safetensors")
    (kept / "model.safetensors.sha256").write_text("old")
    result = fastconv.convert(model, tmp_path / "target", to="hf", outtype="f16", resume=True)
    assert resume_note(result).endswith(": 21 of 21 pieces were done")
    whole = {name: data for name, data in contents(tmp_path / "whole").items() if not name.endswith(".sha256")}
    assert contents(tmp_path / "target") == whole


def test_a_folder_that_came_to_be_there_leaves_no_other(model: Path, tmp_path: Path) -> None:
    """The one that was filled while the target was missing can take its name no more."""
    target = tmp_path / "out" / "m"
    target.parent.mkdir()
    fastconv.convert(model, tmp_path / "whole", to="hf", outtype="f16")
    stop(7, model, target, to="hf", outtype="f16")
    target.mkdir()
    fastconv.convert(model, target, to="hf", outtype="f16", resume=True)
    assert [path.name for path in target.parent.iterdir()] == ["m"]
    assert contents(target) == contents(tmp_path / "whole")


def test_a_disk_that_cannot_say_whether_the_folder_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for missing, another one would be filled that cannot take its name."""
    target = tmp_path / "m"
    target.mkdir()

    def is_folder(path: object) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(output_folder, "is_folder", is_folder)
    with pytest.raises(OutputError, match="Input/output error"):
        fastconv.convert(model, target, to="hf", outtype="f16", resume=True)
    assert not (tmp_path / ".m.resume-partial").exists()


@pytest.mark.parametrize("place", [0, 1000, 0.3, 0.5, 0.9, -1])
def test_damage_of_what_was_kept_is_found(model: Path, tmp_path: Path, place: float) -> None:
    target = tmp_path / "m.gguf"
    fastconv.convert(model, tmp_path / "whole.gguf", outtype="q8_0")
    stop(21, model, target, outtype="q8_0")
    kept = tmp_path / ".m.gguf.resume-partial"
    data = bytearray(kept.read_bytes())
    at = int(place * len(data)) if 0 < place < 1 else int(place)
    data[at] ^= 0x10
    kept.write_bytes(data)
    result = fastconv.convert(model, target, outtype="q8_0", resume=True)
    assert target.read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    in_header = place in (0, 1000)  # written anew in any case
    assert resume_note(result).endswith("21 pieces were done" if in_header else "1 was damaged and done again")


def test_every_byte_between_tensors_is_made_sure_of(tmp_path: Path) -> None:
    """Padding belongs to no piece."""
    shape = models.LlamaShape(n_embd=36, n_ff=76, n_head=2, n_head_kv=1)
    models.write_hf(tmp_path / "model", shape)
    for name, options in (("m.gguf", {}), ("m", {"to": "hf", "weights_format": "bin"})):
        fastconv.convert(tmp_path / "model", tmp_path / f"whole-{name}", **options)
        stop(100, tmp_path / "model", tmp_path / name, **options)
        kept = tmp_path / f".{name}.resume-partial"
        for file in kept.iterdir() if kept.is_dir() else [kept]:
            file.write_bytes(b"\xa5" * file.stat().st_size)
        result = fastconv.convert(tmp_path / "model", tmp_path / name, resume=True, **options)
        assert ": 0 of 21 pieces were done, 21 were damaged" in resume_note(result)
        whole = tmp_path / f"whole-{name}"
        if whole.is_dir():
            assert contents(tmp_path / name) == contents(whole)
        else:
            assert (tmp_path / name).read_bytes() == whole.read_bytes()


def touch(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def change_the_middle(path: Path) -> None:
    """In its place, the time of modification set back: size, inode, times and both ends are as they were."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(status.st_size // 2)
        file.write(b"\x11\x22" * 200)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], dict[str, Any] | None], str]] = {
    "weights touched": (lambda m, _: touch(m / "model.safetensors"), "model.safetensors changed"),
    "weights changed in their middle": (
        lambda m, _: change_the_middle(m / "model.safetensors"),
        "model.safetensors changed",
    ),
    "weights rewritten": (lambda m, _: models.write_hf(m, WIDE, seed=1) and None, "model.safetensors changed"),
    "weights replaced": (
        lambda m, _: (
            ((m / "copy").write_bytes((m / "model.safetensors").read_bytes()) and None)
            or ((m / "copy").rename(m / "model.safetensors") and None)
        ),
        "model.safetensors changed",
    ),
    "adapter changed": (
        lambda m, _: write_adapter(m / "adapter", WIDE, rank=5, seed=9) and None,
        "adapter_model.safetensors changed",
    ),
    "other adapter": (
        lambda m, _: write_adapter(m / "other", WIDE, rank=5) and {"lora": m / "other"},
        "other/adapter_model.safetensors is new",
    ),
    "no adapter": (lambda m, _: {"lora": ()}, "adapter_model.safetensors is no longer read"),
    "other scale": (lambda m, _: {"lora": [(m / "adapter", 0.5)]}, "tensors of the output differ"),
    "other type": (lambda m, _: {"outtype": "q5_0"}, "--outtypes is ('q5_0',), was ('q4_0',)"),
    "other option": (lambda m, _: {"pure": True}, "--pure is True, was False"),
    "nonfinite": (lambda m, _: {"nonfinite": "clamp"}, "--nonfinite is 'clamp', was 'error'"),
    "configuration": (
        lambda m, _: (m / "config.json").write_text((m / "config.json").read_text().replace("1e-05", "2e-05")) and None,
        "headers of the output differ",
    ),
    "version": (lambda m, patch: patch.setattr(run_facts, "version", lambda: "99.1"), "fastconv is another"),
    "build": (
        lambda m, patch: patch.setattr(
            run_facts, "sha256", lambda path: "0" * 64 if path == _native.__file__ else "1" * 64
        ),
        "its native code is another",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    options: dict[str, Any] = {"outtype": "q4_0", "lora": model / "adapter"}
    stop(21, model, tmp_path / "m.gguf", **options)
    act, words = CHANGES[change]
    options |= act(model, monkeypatch) or {}
    result = fastconv.convert(model, tmp_path / "m.gguf", resume=True, **options)
    note = resume_note(result)
    assert note.startswith("started afresh instead of resuming: ")
    assert words in note
    assert "\n" not in note
    fastconv.convert(model, tmp_path / "whole.gguf", **options)
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    assert not list(tmp_path.glob(".m.gguf*"))


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"max_memory": "20M"}, {"checksum": True}, {"overwrite": True}], ids=str
)
def test_what_does_not_decide_the_bytes_may_change(model: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0", threads=3)
    result = fastconv.convert(model, tmp_path / "m.gguf", resume=True, outtype="q4_0", **options)
    assert resume_note(result).endswith(": 8 of 21 pieces were done")


JOURNAL = ".m.gguf.resume"
RECORD_BYTES = 44


@pytest.mark.parametrize("n_lost", [1, 44, 45, 44 * 8])
def test_a_torn_journal_counts_up_to_the_tear(model: Path, tmp_path: Path, n_lost: int) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    journal = tmp_path / JOURNAL
    os.truncate(journal, journal.stat().st_size - n_lost)
    left = 8 - -(-n_lost // RECORD_BYTES)
    stop(2, model, tmp_path / "m.gguf", outtype="q4_0")  # records after the tear are read too
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result).endswith(f": {left + 2} of 21 pieces were done")


def test_a_record_with_a_flipped_bit_ends_the_journal(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    data = bytearray((tmp_path / JOURNAL).read_bytes())
    data[-3 * RECORD_BYTES + 9] ^= 1
    (tmp_path / JOURNAL).write_bytes(data)
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result).endswith(": 5 of 21 pieces were done")


def damaged_journals(whole: bytes) -> dict[str, bytes]:
    end = whole.index(b"\n")
    return {
        "no records' header": whole[: end // 2],
        "header cut by its end": whole[:end],
        "bit in the header": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
        "zeros": bytes(len(whole)),
        "garbage": os.urandom(1 << 16),
        "text": b"{}\n",
        "another program's": b"SQLite format 3\0" + bytes(100),
        "lines": b"\n" * 1000,
    }


@pytest.mark.parametrize("kind", damaged_journals(bytes(300) + b"\n"))
def test_a_damaged_journal_is_not_believed(model: Path, tmp_path: Path, kind: str) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    (tmp_path / JOURNAL).write_bytes(damaged_journals((tmp_path / JOURNAL).read_bytes())[kind])
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result) == "started afresh instead of resuming: its journal is damaged"


def test_the_journal_of_another_target_is_not_believed(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "a.gguf", outtype="q4_0")
    for kind in ("resume", "resume-partial"):
        (tmp_path / f".a.gguf.{kind}").rename(tmp_path / f".m.gguf.{kind}")
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert "started afresh instead of resuming: it was to write" in resume_note(result)


def test_records_of_another_journal_are_not_believed(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "a.gguf", outtype="q4_0")
    stop(3, model, tmp_path / "m.gguf", outtype="q4_0")
    records = (tmp_path / ".a.gguf.resume").read_bytes()[-8 * RECORD_BYTES :]
    with open(tmp_path / JOURNAL, "ab") as journal:
        journal.write(records)
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result).endswith(": 3 of 21 pieces were done")


def test_lost_data_are_done_again(model: Path, tmp_path: Path) -> None:
    for lose in (Path.unlink, lambda path: os.truncate(path, 1000)):
        stop(8, model, tmp_path / "m.gguf", outtype="q4_0", overwrite=True)
        lose(tmp_path / ".m.gguf.resume-partial")
        result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True, overwrite=True)
        assert resume_note(result).endswith(": 0 of 21 pieces were done, 8 were damaged and done again")


HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+")
fcntl.flock(file, fcntl.LOCK_EX)
print(1, flush=True)
input()
"""


def test_one_run_at_a_time(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    before = contents(tmp_path)
    for name in (JOURNAL, ".m.gguf.resume-partial"):
        with subprocess.Popen(
            [sys.executable, "-c", HOLD, tmp_path / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            other.stdout.readline()
            with pytest.raises(OutputError, match="another run is writing it"):
                fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
            other.communicate(b"\n")
        assert contents(tmp_path) == before
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result).endswith(": 8 of 21 pieces were done")


@pytest.mark.parametrize("as_link", [os.symlink, os.link])
def test_a_link_in_the_place_of_what_is_kept_is_not_written_through(
    model: Path, tmp_path: Path, as_link: Callable[[Path, Path], None]
) -> None:
    (tmp_path / "precious").write_text("precious")
    as_link(tmp_path / "precious", tmp_path / ".m.gguf.resume-partial")
    if as_link is os.symlink:
        with pytest.raises(OutputError):
            fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    else:
        fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", [".m.gguf.resume", ".m.gguf.resume-partial", ".hf.resume-partial"])
def test_what_another_user_left_is_not_gone_on_with(
    model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They could write to the file at any time, when it has been checked too."""
    target = name.removesuffix("-partial").removesuffix(".resume")[1:]
    options: dict[str, Any] = {"to": "hf"} if target == "hf" else {"outtype": "q4_0"}
    stop(8, model, tmp_path / target, **options)
    before = contents(tmp_path)
    fstat = os.fstat
    ours = (tmp_path / name).stat().st_ino

    def foreign(descriptor: int) -> os.stat_result:
        status = fstat(descriptor)
        return status if status.st_ino != ours else os.stat_result([*status[:4], os.geteuid() + 1, *status[5:]])

    monkeypatch.setattr(os, "fstat", foreign)
    with pytest.raises(OutputError, match="belongs to another user; remove it, or write elsewhere"):
        fastconv.convert(model, tmp_path / target, resume=True, **options)
    monkeypatch.undo()
    assert contents(tmp_path) == before


def test_a_folder_in_the_place_of_what_is_kept_is_named(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    (tmp_path / ".m.gguf.resume-partial").unlink()
    (tmp_path / ".m.gguf.resume-partial").mkdir()
    with pytest.raises(OutputError, match=r"\.m\.gguf\.resume-partial: cannot be resumed from \(Is a directory\)"):
        fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)


def test_a_run_without_resume_neither_uses_nor_leaves_it(model: Path, tmp_path: Path) -> None:
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0")
    assert resume_note(result) == ""
    assert not list(tmp_path.glob(".m.gguf*"))


def test_a_bad_value_leaves_nothing_to_resume(tmp_path: Path) -> None:
    tensors = models.random_tensors(WIDE)
    tensors["model.norm.weight"][3] = float("nan")
    models.write_hf(tmp_path / "model", WIDE, tensors=tensors)
    before = names_in(tmp_path)
    for name, options in (("m.gguf", {}), ("m", {"to": "hf"})):
        with pytest.raises(NonFiniteError):
            fastconv.convert(tmp_path / "model", tmp_path / name, resume=True, **options)
        assert names_in(tmp_path) == before


def test_a_full_disk_leaves_what_can_be_resumed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    fastconv.convert(model, tmp_path / "whole.gguf", outtype="q4_0")
    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    result = fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    assert resume_note(result).endswith(": 8 of 21 pieces were done")
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_room_that_is_taken_already_is_not_asked_for_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    stop(8, model, tmp_path / "m.gguf", outtype="q4_0")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 16))
    fastconv.convert(model, tmp_path / "m.gguf", outtype="q4_0", resume=True)
    with pytest.raises(OutputError, match="not enough room"):
        fastconv.convert(model, tmp_path / "n.gguf", outtype="q4_0", resume=True)


def test_provenance_does_not_tell_of_resuming(model: Path, tmp_path: Path) -> None:
    fastconv.convert(model, tmp_path / "whole.gguf", provenance=True)
    stop(5, model, tmp_path / "m.gguf", provenance=True)
    fastconv.convert(model, tmp_path / "m.gguf", provenance=True, resume=True)
    assert provenance.PREFIX.encode() in (tmp_path / "m.gguf").read_bytes()
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
