"""Runs command lines of fastconv in forked children, with faults or signals at a given moment: one JSON line each.

A program of its own, started with fault_library.cpp preloaded. Imports and first uses happen once, before the forks, so
that a case takes milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

from fastconv import engine
from fastconv.cli import main
from fastconv.layout import resume_journal

LIBRARY = ctypes.CDLL(None)
LIBRARY.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_int]
LIBRARY.fault_extension.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
LIBRARY.fault_calls.argtypes = [ctypes.c_int]
LIBRARY.fault_calls.restype = LIBRARY.fault_count.restype = ctypes.c_long

# A child that takes longer hangs.
_LONGEST_SECONDS = 120
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def held(folder: str) -> dict[str, int]:
    """What a run could leak: descriptors, mappings of files in the folder, threads."""
    mappings = sum(folder in line for line in Path("/proc/self/maps").read_text().splitlines())
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": mappings,
        "threads": len(os.listdir("/proc/self/task")),
    }


def claim_eagerly() -> None:
    """Has what is done claimed as often as is looked, not once a second."""
    engine._POLL_SECONDS = 0.001
    resume_journal.INTERVAL_SECONDS, resume_journal._SYNC_SHARE = 0.0, 1.0


def child(request: dict[str, Any], report: int) -> None:
    """Runs the command line and ends the process."""
    folder = request["folder"]
    output = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    code = 70
    try:
        before = held(folder)
        if "--resume" in request["arguments"]:
            claim_eagerly()
        if "file_bytes" in request:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], resource.RLIM_INFINITY))
        if (arm := request.get("arm")) is not None:
            LIBRARY.fault_arm(os.fsencode(folder), *arm)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        code = main(request["arguments"])
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    except KeyboardInterrupt:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        code = 130  # before main() or after it
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    LIBRARY.fault_disarm()
    sys.stdout.flush()
    with contextlib.suppress(ValueError):
        sys.stderr.flush()
    gc.collect()
    after = held(folder)
    found = {
        "calls": [LIBRARY.fault_calls(kind) for kind in range(request["kinds"])],
        "faults": LIBRARY.fault_count(),
        "leaks": {what: after[what] - before[what] for what in before if after[what] != before[what]},
    }
    os.write(report, json.dumps(found).encode())
    os._exit(code)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    started = time.monotonic()
    # The child is disturbed while it is in main().
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        child(request, writer)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.close(writer)
    if "after" in request:
        time.sleep(max(0.0, request["after"] - (time.monotonic() - started)))
        os.kill(pid, request["signal"])
    watchdog = threading.Timer(_LONGEST_SECONDS, os.kill, (pid, signal.SIGKILL))
    watchdog.start()
    _, status = os.waitpid(pid, 0)
    watchdog.cancel()
    watchdog.join()
    with open(reader, "rb") as file:
        found = file.read()
    code = os.waitstatus_to_exitcode(status)
    stderr = Path(request["stderr"]).read_text(errors="replace")
    report = json.loads(found) if found else {}
    return {"code": code, "seconds": time.monotonic() - started, "stderr": stderr, **report}


def extension_range() -> tuple[int, int]:
    """Where the code of the extension lies."""
    spans = [
        [int(bound, 16) for bound in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "fastconv/_native" in line
    ]
    return min(low for low, _ in spans), max(high for _, high in spans)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("warm"):
            main(request["arguments"])
            LIBRARY.fault_extension(*extension_range())
            gc.collect()
            gc.freeze()  # what is there is not looked through by every child
            answer: dict[str, Any] = {}
        else:
            answer = serve(request)
        sys.__stdout__.write(json.dumps(answer) + "\n")
        sys.__stdout__.flush()
