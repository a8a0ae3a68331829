"""Runs that are killed at random moments, resumed until one ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fastconv
from tests import models
from tests.e2e.conftest import write_adapter
from tests.resume.interrupted import contents

SHAPE = models.LlamaShape(n_embd=512, n_ff=2048, n_layer=4, n_head=8, n_head_kv=4)

# The program, which claims what is done as often as it looks.
EAGER = """
import sys
from fastconv import engine
from fastconv.cli.main import main
from fastconv.layout import resume_journal
engine._POLL_SECONDS = 0.002
resume_journal.INTERVAL_SECONDS = 0.0
resume_journal._SYNC_SHARE = 1.0
sys.exit(main(sys.argv[1:]))
"""
RECORD_BYTES = 44


def killed_until_done(
    command: list[str], folder: Path, journal: Path, truth: dict[str, bytes], chance: random.Random, most: int
) -> list[int]:
    """Exit codes of the runs, the last of which ends by itself. Each is killed a while after a claim, or at once.

    A final name holds what it should, if anything: after a run that had come so far it is taken away again.
    """
    codes: list[int] = []
    while True:
        before = journal.stat().st_size if journal.exists() else 0
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"FASTCONV_ISA": "baseline"}
        )
        if len(codes) < most:
            n_claims = chance.randrange(5)
            wanted = before + RECORD_BYTES * n_claims
            while process.poll() is None and not (journal.exists() and journal.stat().st_size >= wanted):
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.01))
            # A run that claimed nothing may not have come to handle signals yet.
            gentle = [signal.SIGINT, signal.SIGTERM] if n_claims else []
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, *gentle]))
        _, error = process.communicate(timeout=300)
        codes.append(process.returncode)
        if process.returncode == 0:
            return codes
        outputs = {name: data for name, data in contents(folder).items() if not name.startswith(".")}
        assert outputs.items() <= truth.items()
        # One that had come to its end is not unwound any more.
        assert outputs or process.returncode in (-9, 130, 143), error
        for path in folder.iterdir():
            if not path.name.startswith("."):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("options", "most"),
    [
        (["--outtype", "q6_k", "-o", "m.gguf"], 4),
        pytest.param(["--outtype", "q4_k_m,q8_0", "-o", "m-{type}.gguf", "--lora"], 60, marks=pytest.mark.slow),
        pytest.param(["--to", "ggjt", "--outtype", "q5_1", "-o", "m.bin", "--lora"], 60, marks=pytest.mark.slow),
        pytest.param(["--to", "hf", "--outtype", "f16", "-o", "m", "--shard-size", "9MB"], 60, marks=pytest.mark.slow),
    ],
    ids=lambda value: value[1] if isinstance(value, list) else "",
)
def test_killed_and_resumed(tmp_path: Path, options: list[str], most: int) -> None:
    model, folder, whole = tmp_path / "model", tmp_path / "out", tmp_path / "whole"
    models.write_hf(model, SHAPE)
    write_adapter(model / "adapter", SHAPE, rank=8)
    folder.mkdir(), whole.mkdir()
    options = [str(folder / option) if options[max(i - 1, 0)] == "-o" else option for i, option in enumerate(options)]
    if options[-1] == "--lora":
        options.append(str(model / "adapter"))
    target = Path(options[options.index("-o") + 1])
    journal = folder / f".{target.name.replace('{type}', 'q4_k_m')}.resume"
    command = [
        sys.executable,
        "-c",
        EAGER,
        "convert",
        str(model),
        "--concurrency",
        "1",
        "--quiet",
        *options,
        "--resume",
    ]
    fastconv.convert(
        model,
        whole / target.name,
        to=options[options.index("--to") + 1] if "--to" in options else "gguf",
        outtype=options[options.index("--outtype") + 1],
        lora=model / "adapter" if "--lora" in options else (),
        shard_size=9_000_000 if "--shard-size" in options else None,
    )
    codes = killed_until_done(command, folder, journal, contents(whole), random.Random(1), most)
    assert len(codes) > 2, "no run lasted long enough to be killed"
    assert contents(folder) == contents(whole)
