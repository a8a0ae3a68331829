"""Conversions whose calls fail, that are ended at any moment, that find the disk full. All of it: soak.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.campaigns import fill_disks, inject_faults, send_signals
from tests.crash.harness import Server
from tests.engine.test_run import subprocess_environment

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the faults are preloaded into Linux processes"),
    pytest.mark.memory,
]

LENGTHS = [pytest.param("short", id="short"), pytest.param("long", id="long", marks=pytest.mark.slow)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_call_that_fails(server: Server, length: str) -> None:
    """A non-zero exit, one line, the older output as it was, nothing else left, open or mapped; or success."""
    counts = inject_faults(server.cases, 1, {"short": 52, "long": 1000}[length])
    assert counts["faults"] >= {"short": 40, "long": 800}[length]
    refused = sum(n for ending, n in counts.items() if ending.endswith(": refused"))
    assert refused > counts["faults"] // 3


@pytest.mark.parametrize("length", LENGTHS)
def test_a_call_that_fails_in_a_resumed_run(server: Server, length: str) -> None:
    """The same, but for what is kept on purpose; and the next run succeeds."""
    counts = inject_faults(server.resumed, 5, {"short": 13, "long": 400}[length])
    assert counts["faults"] >= {"short": 9, "long": 300}[length]
    refused = sum(n for ending, n in counts.items() if ending.endswith(": refused"))
    assert refused > counts["faults"] // 3


def test_no_sync_waits_for_no_disk(server: Server) -> None:
    for case in server.cases:
        is_synced = "--no-sync" not in case.case.arguments
        assert (case.count_calls()["sync"] > 0) == is_synced, case.case.name


@pytest.mark.parametrize("length", LENGTHS)
def test_an_end_at_any_moment(server: Server, length: str) -> None:
    """Whole files, old or new, under final names; the next run succeeds and removes what is left."""
    n = {"short": 18, "long": 240}[length]
    assert send_signals(server, 2, n)["signals"] == n


@pytest.mark.parametrize("length", LENGTHS)
def test_a_full_disk(server: Server, length: str) -> None:
    n = {"short": 18, "long": 240}[length]
    assert fill_disks(server, 3, n)["sizes"] >= 0.9 * n


@pytest.mark.slow
def test_a_full_file_system() -> None:
    """A real one: tmpfs, mounted in a user namespace where root is not to be had otherwise."""
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    only = ["--resumed", "0", "--faults", "0", "--signals", "0", "--sizes", "0", "--tmpfs", "63", "--seed", "4"]
    done = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.crash.soak", *only],
        env=subprocess_environment(),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sizes"] == 63
