"""The choice among instruction sets: the best one by default, the forced one where FASTCONV_ISA names it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fastconv import _native

PROGRAM = "from fastconv import _native; print(_native.isa())"


def run(program: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FASTCONV_ISA"}
    if isa is not None:
        environment["FASTCONV_ISA"] = isa
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


def test_the_last_choice_runs_anywhere() -> None:
    assert _native.isas()[-1] == ("neon" if platform.machine() in ("aarch64", "arm64") else "baseline")


@pytest.mark.parametrize("forced", [None, ""])
def test_the_best_is_the_default(forced: str | None) -> None:
    assert run(PROGRAM, forced).stdout.split() == _native.isas()[:1]


def test_the_forced_one_is_what_runs(isa: str) -> None:
    assert run(PROGRAM, isa).stdout.split() == [isa]


@pytest.mark.parametrize("name", ["sse9", "AVX2", "neon" if "baseline" in _native.isas() else "avx2"])
def test_an_unknown_one_is_an_error_that_lists_the_choices(name: str) -> None:
    result = run(PROGRAM, name)
    assert result.returncode != 0
    message = f"FASTCONV_ISA: instruction set '{name}' is unknown or cannot run here; choices: "
    assert message + ", ".join(_native.isas()) in result.stderr
    with pytest.raises(ValueError, match="choices: " + ", ".join(_native.isas())):
        _native.max_abs(__import__("numpy").zeros(1, "float32"), name)
