"""Runs as a whole: the same bytes from any division of the work, progress, errors, cancellation, memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native, control_group, engine
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError
from fastconv.plan.job import TensorJob
from tests.engine.tensors import Disk, in_memory, job, values

SHAPES = [(1, 64), (512, 256), (3, 300000), (64, 64), (1, 1_000_000), (700, 96), (0, 32), (2, 0)]


def mixed_jobs(disk: Disk) -> tuple[list[TensorJob], list[bytes]]:
    """Two outputs per job: bf16 and f32; one input file for all."""
    rng = np.random.default_rng(0)
    arrays = [values(shape, "bf16", seed) for seed, shape in enumerate(SHAPES)]
    path = disk.path()
    path.write_bytes(b"".join(array.tobytes() for array in arrays))
    storage, jobs, starts, at, out = FileStorage(path), [], [], 0, 0
    files = [bytearray(), bytearray()]
    for array in arrays:
        starts.append(at)
        at += array.nbytes
    for i in rng.permutation(len(arrays)):
        array = arrays[i]
        tensor = LazyTensor.stored(f"t{i}", "bf16", array.shape, storage, starts[i])
        expected = array
        if array.shape[0] >= 64:
            index = rng.permutation(len(array))
            tensor, expected = tensor.with_rows(index), array[index]
        deltas: tuple[LoraDelta, ...] = ()
        if array.shape == (700, 96):
            b = in_memory(np.zeros((700, 2), np.float32))
            deltas = (LoraDelta(b, in_memory(values((2, 96))), 1.0),)
        made = job(tensor, "bf16", "f32", deltas=deltas)
        outputs = tuple(type(o)(o.file, o.type, len(files[o.file]), o.size) for o in made.outputs)
        jobs.append(TensorJob(made.name, made.source_name, made.shape, tensor, deltas, outputs))
        files[0] += expected.tobytes()
        files[1] += expected.astype(np.float32).tobytes()
        out += array.size
    return jobs, [bytes(file) for file in files]


@pytest.mark.parametrize("threads", range(1, 8))
@pytest.mark.parametrize("tile_bytes", [0, 1, 1024, 5000, 1 << 22])
def test_same_bytes(disk: Disk, threads: int, tile_bytes: int) -> None:
    jobs, expected = mixed_jobs(disk)
    assert disk.run(jobs, n_files=2, threads=threads, tile_bytes=tile_bytes) == expected


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("offset", [0, 32, 4096, 5024])
def test_tensors_of_many_writes(disk: Disk, direct: bool, offset: int) -> None:
    """Pages that two writes share are whole, whether or not writes go past the page cache."""
    arrays = [values((1025, 1024), "f32", 1), values((1, 1_300_001), "f32", 2), values((3, 700), "f32", 3)]
    jobs, expected, at = [], bytearray(offset), offset
    for array in arrays:
        jobs.append(job(disk.put(array), "f32", offset=at))
        expected += array.tobytes() + bytes(-array.nbytes % 32)
        at = len(expected)
    (written,) = disk.run(jobs, threads=3, direct=direct)
    assert written == bytes(expected)[: len(written)]
    assert len(expected) - len(written) < 32


def test_progress_and_result(disk: Disk) -> None:
    jobs, expected = mixed_jobs(disk)
    paths = [disk.path(), disk.path()]
    descriptors = [os.open(path, os.O_WRONLY | os.O_CREAT) for path in paths]
    seen: list[tuple[int, int]] = []
    result = engine.run(jobs, descriptors, 2, progress=lambda done, total: seen.append((done, total)))
    for descriptor in descriptors:
        os.close(descriptor)
    assert [path.read_bytes() for path in paths] == expected
    assert seen == sorted(seen)
    assert seen[-1] == (result.bytes_read, result.bytes_read)
    assert result.bytes_read == engine.input_bytes(jobs) == sum(j.source.n_elements for j in jobs) * 2
    assert result.delta_ratios == {j.name: 0.0 for j in jobs if j.deltas}
    assert result.delta_ratios


def test_input_bytes_count_what_is_drawn(disk: Disk) -> None:
    upper, lower = values((4, 32), "bf16"), values((6, 32), "f64")
    tensor = LazyTensor.joined("joined", [disk.put(upper), disk.put(lower)], 0)
    drawn = tensor.with_rows(np.array([0, 0, 9, 5, 4]))
    for source, expected in ((tensor, 4 * 64 + 6 * 256), (drawn, 2 * 64 + 3 * 256)):
        descriptor = os.open(disk.path(), os.O_WRONLY | os.O_CREAT)
        result = engine.run([job(source, "f32")], [descriptor], 1)
        os.close(descriptor)
        assert engine.input_bytes([job(source, "f32")]) == result.bytes_read == expected


def test_outputs_at_offsets_leave_the_rest_alone(disk: Disk) -> None:
    path = disk.path()
    path.write_bytes(b"\xff" * 1000)
    descriptor = os.open(path, os.O_RDWR)
    array = values((4, 32), "bf16")
    engine.run([job(disk.put(array), "bf16", offset=100)], [descriptor], 2)
    os.close(descriptor)
    assert path.read_bytes() == b"\xff" * 100 + array.tobytes() + b"\xff" * 644


def test_nothing_to_do() -> None:
    assert engine.run([], [], 2).bytes_read == 0


NO_ROOM = """
import os, resource, signal, sys
import numpy as np
from tests.engine.tensors import in_memory, job
from fastconv import engine
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
try:
    engine.run([job(in_memory(np.zeros((1024, 4096), np.float32)), "f32")], [descriptor], 3)
except OSError as error:
    sys.exit(error.errno)
"""


def subprocess_environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}


def test_write_that_fails(disk: Disk) -> None:
    command = [sys.executable, "-c", NO_ROOM, str(disk.path())]
    assert subprocess.run(command, env=subprocess_environment(), timeout=60).returncode == errno.EFBIG


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_device(disk: Disk) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(OSError, match="No space left") as error:
            engine.run([job(disk.put(values((100, 100))), "f32")], [descriptor], 2)
    finally:
        os.close(descriptor)
    assert error.value.errno == errno.ENOSPC


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def sparse_input(disk: Disk, megabytes: int) -> LazyTensor:
    path = disk.path()
    path.touch()
    os.truncate(path, megabytes << 20)
    return LazyTensor.stored("sparse", "bf16", (megabytes, 1 << 19), FileStorage(path), 0)


def test_cancel_joins_the_threads(disk: Disk) -> None:
    before = native_threads()
    with open(os.devnull, "wb") as sink:
        run = _native.Run([engine._native_job(job(sparse_input(disk, 4096), "f32"))], [sink.fileno()], 3)
        assert native_threads() == before + 3
        run.cancel()
        assert native_threads() == before
        assert run.bytes_done < 4096 << 20
        with pytest.raises(RuntimeError, match="cancelled"):
            run.wait(1)
        run.cancel()


def test_dropping_a_run_joins_the_threads(disk: Disk) -> None:
    before = native_threads()
    with open(os.devnull, "wb") as sink:
        run = _native.Run([engine._native_job(job(sparse_input(disk, 4096), "f32"))], [sink.fileno()], 3)
        assert not run.wait(0)
        del run
    assert native_threads() == before


def test_interrupt_stops_the_run(disk: Disk) -> None:
    before = native_threads()

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with open(os.devnull, "wb") as sink, pytest.raises(KeyboardInterrupt):
        engine.run([job(sparse_input(disk, 8192), "f32")], [sink.fileno()], 2, progress=interrupt)
    assert native_threads() == before


def test_python_runs_meanwhile(disk: Disk) -> None:
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        with open(os.devnull, "wb") as sink:
            engine.run([job(sparse_input(disk, 512), "f32")], [sink.fileno()], 1)
    finally:
        done.set()
        thread.join()
    assert ticks > 5


def test_input_that_shrank(disk: Disk) -> None:
    tensor = disk.put(values((100, 100)))
    native = engine._native_job(job(tensor, "f32"))
    os.truncate(tensor.files[0], 100)
    with open(os.devnull, "wb") as sink:
        run = _native.Run([native], [sink.fileno()], 1)
        with pytest.raises(_native.InputChanged):
            run.wait(60)


def test_input_that_changes_is_named(disk: Disk) -> None:
    tensor = sparse_input(disk, 4096)
    path = tensor.files[0]

    def touch(*_: int) -> None:
        os.utime(path, (1, 1))

    with open(os.devnull, "wb") as sink, pytest.raises(CheckpointError, match="changed while it was read") as error:
        engine.run([job(tensor, "f32")], [sink.fileno()], 1, progress=touch)
    assert error.value.file == path


PEAK = """
import os, re, sys
from pathlib import Path
import numpy as np
from fastconv import engine
from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from tests.engine.tensors import Disk, in_memory, job
from tests.engine.test_run import sparse_input

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10

disk = Disk(Path(sys.argv[1]))
tensor = sparse_input(disk, int(sys.argv[2]))
n_rows = tensor.n_rows
if sys.argv[3] == "rows":
    tensor = tensor.with_rows(np.arange(n_rows) ^ 1)
elif sys.argv[3] == "transposed":
    tensor = tensor.transposed()
jobs = [job(tensor, "f32", "bf16")]
if sys.argv[3] == "merged":
    n_rows, piece = 1 << 15, tensor.pieces[0]
    delta = LoraDelta(in_memory(np.ones((n_rows, 1), np.float32)), in_memory(np.ones((1, 32), np.float32)), 1.0)
    jobs = [
        job(LazyTensor.stored(f"t{start}", "bf16", (n_rows, 32), piece.storage, start), "f16", deltas=(delta,))
        for start in range(0, int(sys.argv[2]) << 20, n_rows * 32 * 2)
    ]
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = peak()
with open(os.devnull, "wb") as sink:
    engine.run(jobs, [sink.fileno()] * 2, 2)
print(peak() - before)
"""


READ = """
import re, sys
from dataclasses import replace
from pathlib import Path
from tests.engine.tensors import Disk
from tests.engine.test_run import sparse_input

tensor = sparse_input(Disk(Path(sys.argv[1])), 600)
piece = tensor.pieces[0]
n_rows = (600 << 20) // 1024 // 2
narrow = replace(piece, row_stride=1024, n_rows=n_rows, n_cols=1)
column = replace(tensor, shape=(n_rows, 1), n_rows=n_rows, n_cols=1, pieces=(narrow,))
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
assert not column.numpy().any()
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""


@pytest.mark.memory
def test_a_column_read_leaves_no_pages(disk: Disk) -> None:
    """It is on all 600 MB of them."""
    command = [sys.executable, "-c", READ, str(disk.folder)]
    printed = subprocess.run(command, env=subprocess_environment(), timeout=120, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert int(printed.stdout) < 150


@pytest.mark.memory
@pytest.mark.parametrize("view", ["plain", "rows", "transposed", "merged"])
def test_peak_memory_is_bounded(disk: Disk, view: str) -> None:
    """Mapped pages count. 600 MB of input leave less than 64 MB (48 with transposed rows, a little more where threads
    are kept waiting), one tensor or 300 with a delta each."""
    command = [sys.executable, "-c", PEAK, str(disk.folder), "600", view]
    printed = subprocess.run(command, env=subprocess_environment(), timeout=120, capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert int(printed.stdout) < 64


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cgroup": "0::/a/b", "fs/a/b/cpu.max": "max 100000", "fs/a/cpu.max": "150000 100000"}, [1.5]),
        ({"cgroup": "0::/host/path", "fs/cpu.max": "50000 100000"}, [0.5]),
        (
            {
                "cgroup": "3:cpu,cpuacct:/x\n1:memory:/y",
                "fs/cpu/x/cpu.cfs_quota_us": "300000",
                "fs/cpu/x/cpu.cfs_period_us": "100000",
            },
            [3.0],
        ),
        ({"cgroup": "3:cpu:/x", "fs/cpu/x/cpu.cfs_quota_us": "-1", "fs/cpu/x/cpu.cfs_period_us": "100000"}, []),
        ({"cgroup": "0::/", "fs/cpu.max": "max 100000"}, []),
        ({}, []),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], expected: list[float]) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(control_group.cpu_quotas(tmp_path / "cgroup", tmp_path / "fs")) == expected


def test_default_threads_follow_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert engine.default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= engine.default_threads() <= len(allowed)
