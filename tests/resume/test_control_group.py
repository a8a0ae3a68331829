"""Conversions in a control group with little memory: each ends in the right file or in a line, none is killed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import fastconv
from tests import models
from tests.resume.control_groups import Group, NoGroupError, control_group
from tests.resume.interrupted import contents

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's"),
    pytest.mark.memory,
]

MB = 1 << 20
# 80 MB, most of which has to leave memory again.
LARGE = models.LlamaShape(n_embd=1024, n_ff=2816, n_layer=3, n_head=8, n_head_kv=8)
# What a line says of the group: found, and needed.
REFUSAL = re.compile(
    r"fastconv: error: ([^\n]*: )?the memory that the control group leaves is too little for [a-z ]+: "
    r"found (\d+) bytes, expected at least (\d+)\n"
)


@pytest.fixture(scope="module")
def group() -> Iterator[Group]:
    try:
        with control_group() as made:
            yield made
    except NoGroupError as reason:
        pytest.skip(f"no control group can be made here: {reason}")


def needed_by(done: subprocess.CompletedProcess[str], limit: int, out: Path) -> int | None:
    """Bytes that the refusal asks for, None after a success; nothing else may happen."""
    if done.returncode == 0:
        assert done.stderr == ""
        return None
    assert done.returncode == 1, (limit, done)
    told = REFUSAL.fullmatch(done.stderr)
    assert told, (limit, done.stderr)
    assert [path.name for path in out.parent.iterdir()] == []
    found, needed = int(told[2]), int(told[3])
    assert limit - MB <= found <= limit
    assert needed > found
    return needed


def check(group: Group, command: list[str | Path], out: Path, truth: bytes, limits: list[int]) -> None:
    """Under these limits, the last of which is ample, and under what is asked for until it is enough."""
    out.parent.mkdir()

    def needed_under(limit: int) -> int | None:
        needed = needed_by(group.run([*command, "-o", out, "--quiet"], limit), limit, out)
        if needed is None:
            assert out.read_bytes() == truth, limit
            out.unlink()
        return needed

    found = [needed_under(limit) for limit in limits]
    assert found[0] is not None
    assert found[-1] is None
    asked = max(needed for needed in found if needed is not None)
    # Asked first for the program, then for a vocabulary, then for the conversion; and a page more or less each time.
    for _ in range(3):
        needed = needed_under(asked + MB // 4)
        if needed is None:
            return
        assert needed > asked + MB
        asked = needed
    assert needed_under(asked + MB // 4) is None


CONVERT: list[str | Path] = [sys.executable, "-m", "fastconv", "convert"]


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        pytest.param(["--outtype", "q4_0"], [18, 28, 64], id="plain"),
        pytest.param(["--outtype", "q8_0", "--lora", "adapter", "--concurrency", "8"], [18, 34, 256], id="lora"),
        pytest.param(["--outtype", "q4_k_m"], [*range(18, 50, 2), 1500], id="many", marks=pytest.mark.slow),
        pytest.param(
            ["--outtype", "q6_k", "--lora", "adapter", "--concurrency", "8"],
            [*range(18, 60, 2), 200, 1500],
            id="many lora",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_file_or_a_line(
    group: Group, wide_model: Path, tmp_path: Path, options: list[str], limits: list[int]
) -> None:
    options = [str(wide_model / "adapter") if option == "adapter" else option for option in options]
    lora = [str(wide_model / "adapter")] if "--lora" in options else []
    fastconv.convert(wide_model, tmp_path / "whole.gguf", outtype=options[1], lora=lora)
    truth = (tmp_path / "whole.gguf").read_bytes()
    check(group, [*CONVERT, wide_model, *options], tmp_path / "out" / "m.gguf", truth, [n * MB for n in limits])


@pytest.mark.slow
def test_inputs_larger_than_the_group(group: Group, tmp_path: Path) -> None:
    """Their pages are the group's, and are given back."""
    models.write_hf(tmp_path / "model", LARGE)
    fastconv.convert(tmp_path / "model", tmp_path / "whole.gguf", outtype="q8_0")
    truth = (tmp_path / "whole.gguf").read_bytes()
    limits = [n * MB for n in (24, 40, 48, 64, 300)]
    check(group, [*CONVERT, tmp_path / "model", "--outtype", "q8_0"], tmp_path / "out" / "m.gguf", truth, limits)


def test_what_others_in_the_group_hold(group: Group, wide_model: Path, tmp_path: Path) -> None:
    """Memory of another process cannot be had, however large the group."""
    fastconv.convert(wide_model, tmp_path / "whole.gguf", outtype="q4_0")
    group.set_limit(300 * MB)
    other = subprocess.Popen(
        [sys.executable, "-c", f"held = bytes({100 * MB}).replace(b'\\0', b'x'); print(flush=True); input()"],
        preexec_fn=group.join,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None
        other.stdout.readline()
        out = tmp_path / "out" / "m.gguf"
        out.parent.mkdir()
        command = [*CONVERT, wide_model, "--outtype", "q4_0", "-o", out, "--quiet"]
        done = group.run(command, 125 * MB)
        told = REFUSAL.fullmatch(done.stderr)
        assert told, done
        assert 10 * MB < int(told[2]) < 25 * MB
        done = group.run(command, int(told[3]) + 110 * MB)
        other.kill()
    assert (done.returncode, done.stderr) == (0, "")
    assert out.read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.slow
def test_a_vocabulary_that_needs_more_than_the_model(group: Group, tmp_path: Path) -> None:
    shape = replace(models.WIDE, n_vocab=60_000, n_embd=64, n_ff=128, n_layer=1)
    models.write_hf(tmp_path / "model", shape, tokenizer=False)
    words = [f"{i:x}".encode() for i in range(shape.n_vocab)]
    (tmp_path / "model" / "tokenizer.json").write_bytes(
        b'{"model": {"vocab": {' + b",".join(b'"%b":1' % w for w in words * 4) + b"}}}"
    )
    out = tmp_path / "out" / "m.gguf"
    out.parent.mkdir()
    command = [*CONVERT, tmp_path / "model", "-o", out, "--quiet"]
    limit = 50 * MB
    needed = needed_by(group.run(command, limit), limit, out)
    assert needed is not None
    done = group.run(command, needed + MB)
    assert done.returncode == 1
    assert "tokenizer.json: " in done.stderr
    assert "control group" not in done.stderr


@pytest.mark.slow
def test_tokenizer_files_made_of_a_vocabulary(group: Group, tmp_path: Path) -> None:
    models.write_hf(tmp_path / "model", replace(models.WIDE, n_vocab=4000))
    fastconv.convert(tmp_path / "model", tmp_path / "m.gguf", outtype="f16")
    fastconv.convert(tmp_path / "m.gguf", tmp_path / "whole", to="hf")
    out = tmp_path / "out" / "m"
    out.parent.mkdir()
    command = [*CONVERT, tmp_path / "m.gguf", "--to", "hf", "-o", out, "--quiet"]
    needed = needed_by(group.run(command, 36 * MB), 36 * MB, out)
    assert needed is not None
    assert needed_by(group.run(command, needed + MB // 4), needed, out) is None
    assert contents(out) == contents(tmp_path / "whole")
