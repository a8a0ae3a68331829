"""Files that shrink or cannot be read while they are mapped: an error that names them, never the end by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native, engine
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import CheckpointError
from tests.engine.tensors import Disk, job, values


def shrink(tensor: LazyTensor) -> None:
    os.truncate(tensor.files[0], 100)


def test_rows_of_a_file_that_shrank(disk: Disk) -> None:
    tensor = disk.put(values((4096, 64)))
    source = tensor.native()
    shrink(tensor)
    with pytest.raises(_native.InputChanged) as error:
        _native.read_rows(source, 4000, 4096)
    status = os.stat(tensor.files[0])
    assert error.value.args == (status.st_dev, status.st_ino, False)


def test_a_file_as_it_was_whose_page_was_missing(disk: Disk) -> None:
    """So a read error looks: the page is not there, and nothing about the file has changed."""
    array = values((4096, 64))
    tensor = disk.put(array)
    path, source, status = Path(tensor.files[0]), tensor.native(), os.stat(tensor.files[0])
    shrink(tensor)
    with pytest.raises(_native.InputChanged):
        _native.read_rows(source, 4000, 4096)
    path.write_bytes(array.tobytes())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(_native.InputChanged) as error:
        _native.read_rows(source, 0, 1)
    assert error.value.args == (status.st_dev, status.st_ino, True)
    # A mapping that lost pages is not shared any more.
    np.testing.assert_array_equal(tensor.numpy(), array)


def merging(disk: Disk, *, array: np.ndarray | None = None) -> tuple[engine.TensorJob, LazyTensor]:
    """A job, and its adapter's B: nobody asks after that file before its pages are touched."""
    b = disk.put(values((8192, 16), seed=1))
    a = disk.put(values((16, 64), seed=2))
    base = disk.put(values((8192, 64)) if array is None else array)
    return job(base, "f32", deltas=(LoraDelta(b, a, 1.0, None),)), b


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_over_an_adapter_that_shrank(disk: Disk, threads: int) -> None:
    merged, b = merging(disk)
    native = engine._native_job(merged)
    shrink(b)
    with open(os.devnull, "wb") as sink:
        run = _native.Run([native], [sink.fileno()], threads)
        with pytest.raises(_native.InputChanged) as error:
            run.wait(60)
    assert error.value.args[1] == os.stat(b.files[0]).st_ino


def test_a_comparison_over_an_adapter_that_shrank(disk: Disk) -> None:
    merged, b = merging(disk)
    compared = (engine._native_job(merged), disk.put(values((8192, 64))).native())
    shrink(b)
    with pytest.raises(_native.InputChanged):
        _native.Comparison([compared], 2).wait(60)


def test_a_change_comes_before_what_it_leads_to(disk: Disk) -> None:
    """A magnitude that reads as zeros makes NaN of rows of zeros; told is why."""
    column = disk.put(values((8192, 1), seed=3))
    merged, _ = merging(disk, array=np.zeros((8192, 64), np.float32))
    [delta] = merged.deltas
    zeros = disk.put(np.zeros((8192, 16), np.float32))
    dora = job(merged.source, "f32", deltas=(LoraDelta(zeros, delta.a, 1.0, column),))
    native = engine._native_job(dora)
    shrink(column)
    with open(os.devnull, "wb") as sink:
        run = _native.Run([native], [sink.fileno()], 1)
        with pytest.raises(_native.InputChanged):
            run.wait(60)


@pytest.mark.parametrize("which", ["source", "a", "b"])
def test_a_file_changed_since_it_was_opened(disk: Disk, which: str) -> None:
    """Of the same size, before it is mapped: what its header said may no longer be true."""
    merged, b = merging(disk)
    path = {"source": merged.source, "a": merged.deltas[0].a, "b": b}[which].files[0]
    os.utime(path, (1, 1))
    with open(os.devnull, "wb") as sink, pytest.raises(CheckpointError, match="changed while it was read") as error:
        engine.run([merged], [sink.fileno()], 2)
    assert error.value.file == path


def test_a_file_shorter_than_its_header_says_by_now(disk: Disk) -> None:
    tensor = disk.put(values((100, 100)))
    shrink(tensor)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        tensor.numpy()


def handles_bus_errors() -> bool:
    status = Path("/proc/self/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught >> (signal.SIGBUS - 1) & 1)


BESIDE = """
import faulthandler, mmap, os, resource, signal, sys, time
from fastconv import _native, engine
from tests.engine.tensors import Disk, job
from tests.engine.test_lost_pages import handles_bus_errors
from tests.engine.test_run import sparse_input
from pathlib import Path

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if "faulthandler" in sys.argv:
    faulthandler.enable()
before = handles_bus_errors()
disk = Disk(Path(sys.argv[1]))
sink = open(os.devnull, "wb")
run = _native.Run([engine._native_job(job(sparse_input(disk, 1 << 16), "f32"))], [sink.fileno()], 1)
assert handles_bus_errors()
if "end" in sys.argv:
    run.cancel()
    del run
    assert handles_bus_errors() == before
    sys.exit(7)
if "sent" in sys.argv:
    os.kill(os.getpid(), signal.SIGBUS)
    time.sleep(60)
path = disk.path()
path.write_bytes(bytes(8192))
with open(path, "r+b") as file:
    memory = mmap.mmap(file.fileno(), 8192)
    os.truncate(path, 0)
    memory[4096]
"""


@pytest.mark.parametrize("handler", ["faulthandler", "none"])
@pytest.mark.parametrize("fault", ["own mapping", "sent", "end"])
def test_faults_that_are_not_ours(disk: Disk, handler: str, fault: str) -> None:
    """Memory that others mapped, signals that others sent: what would happen without a run happens."""
    from tests.engine.test_run import subprocess_environment

    command = [sys.executable, "-c", BESIDE, str(disk.folder), handler, fault]
    done = subprocess.run(command, env=subprocess_environment(), timeout=60, capture_output=True, text=True)
    assert done.returncode == (7 if fault == "end" else -signal.SIGBUS), done.stderr
    assert ("Fatal Python error: Bus error" in done.stderr) == (handler == "faulthandler" and fault != "end")
