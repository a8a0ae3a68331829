"""The same command gives the same file on every instruction set and thread count; an interrupted one gives none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastconv import _native
from tests import models

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
TYPES = ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "q6_k")


def files_of(run_cli: Cli, model: Path, target: Path, *more: str, **environment: str) -> dict[str, bytes]:
    target.mkdir()
    arguments = ("--lora", model / "adapter", "--outtype", ",".join(TYPES), "-o", target / "{type}.gguf")
    done = run_cli("convert", model, *arguments, "--quiet", *more, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return {file.name: file.read_bytes() for file in target.iterdir()}


def test_every_instruction_set_and_thread_count(run_cli: Cli, wide_model: Path, tmp_path: Path) -> None:
    first = files_of(run_cli, wide_model, tmp_path / "first")
    assert first.keys() == {f"{name}.gguf" for name in TYPES}
    assert len(_native.isas()) >= 1
    for isa in _native.isas():
        assert files_of(run_cli, wide_model, tmp_path / isa, FASTCONV_ISA=isa) == first, isa
    for threads in ("1", "3", "16"):
        assert files_of(run_cli, wide_model, tmp_path / threads, "--concurrency", threads) == first, threads


def test_no_sync_gives_the_same_files(run_cli: Cli, wide_model: Path, tmp_path: Path) -> None:
    synced = files_of(run_cli, wide_model, tmp_path / "synced", "--checksum")
    assert files_of(run_cli, wide_model, tmp_path / "unsynced", "--checksum", "--no-sync") == synced
    done = run_cli("convert", wide_model, "-o", tmp_path / "m.gguf", "--resume", "--no-sync")
    assert done.returncode == 2
    assert "--resume goes on from what is on the disk" in done.stderr
    for options in ((), ("--no-sync",)):
        done = run_cli("convert", wide_model, "--to", "hf", "-o", tmp_path / "-".join(("hf", *options)), *options)
        assert done.returncode == 0, done.stderr
    whole, unsynced = (sorted((tmp_path / name).iterdir()) for name in ("hf", "hf---no-sync"))
    assert [file.name for file in whole] == [file.name for file in unsynced]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(whole, unsynced, strict=True))


def test_an_unknown_instruction_set_is_named(run_cli: Cli, wide_model: Path, tmp_path: Path) -> None:
    done = run_cli("convert", wide_model, "-o", tmp_path / "out.gguf", FASTCONV_ISA="mmx")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    for word in ("FASTCONV_ISA", "mmx", *_native.isas()):
        assert word in done.stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    models.write_hf(folder, models.LlamaShape(n_embd=1024, n_ff=4096, n_layer=4, n_head=8, n_head_kv=8), dtype="F32")
    target = tmp_path / "out"
    target.mkdir()
    (target / "out.gguf").write_text("old")
    command = [sys.executable, "-m", "fastconv", "convert", folder, "-o", target / "out.gguf", "--overwrite"]
    process = subprocess.Popen(
        [*map(str, command), "--outtype", "iq3_s", "--concurrency", "1"],  # half a minute of work, uninterrupted
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FASTCONV_ISA": "baseline"},
    )
    deadline = time.monotonic() + 60
    while len(list(target.iterdir())) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert len(list(target.iterdir())) == 2, "the run ended before it could be interrupted"
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if name == "SIGINT" else 143)
    assert error.count("\n") == 1
    assert "interrupted" in error
    assert [file.name for file in target.iterdir()] == ["out.gguf"]
    assert (target / "out.gguf").read_text() == "old"
