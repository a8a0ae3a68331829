"""The stub of the extension says what the extension has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# pybind11's classes have a metaclass of their own, and those without a constructor take anything to refuse it.
_OF_PYBIND11 = r"""
fastconv\._native\.[A-Z]\w+
fastconv\._native\.(TypeInfo|DeltaStats|ComparisonStats)\.__init__
"""


def test_stub_and_extension_agree(tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(_OF_PYBIND11)
    command = [sys.executable, "-m", "mypy.stubtest", "fastconv._native"]
    done = subprocess.run(
        [*command, "--allowlist", tmp_path / "allowed", "--ignore-unused-allowlist"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
