"""Memory that is bounded: what --max-memory promises, and what a process does that is given little."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import _native, control_group, engine
from fastconv.adapter.delta import LoraDelta
from fastconv.errors import PlanError, UsageError
from fastconv.plan.job import TensorJob
from tests import models
from tests.engine.tensors import Disk, in_memory, job, values


def test_too_little_is_refused_with_what_is_needed(wide_model: Path, tmp_path: Path) -> None:
    options = {"outtype": "q4_0,q8_0", "lora": wide_model / "adapter", "threads": 4}
    with pytest.raises(PlanError, match="--max-memory is too little") as raised:
        fastconv.convert(wide_model, tmp_path / "{type}.gguf", max_memory="100K", **options)
    assert list(tmp_path.iterdir()) == []
    least = int(str(raised.value.expected).removeprefix("at least "))
    with pytest.raises(PlanError):
        fastconv.convert(wide_model, tmp_path / "{type}.gguf", max_memory=least - 1, **options)
    written = set()
    for bound in (least, least + 1, 2 * least, "64M", None):
        fastconv.convert(wide_model, tmp_path / "{type}.gguf", max_memory=bound, overwrite=True, **options)
        written.add(tuple((tmp_path / f"{name}.gguf").read_bytes() for name in ("q4_0", "q8_0")))
    assert len(written) == 1


@pytest.mark.parametrize("text", ["0", "-5", "much", "1.5X"])
def test_what_is_no_size(wide_model: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        fastconv.convert(wide_model, tmp_path / "m.gguf", max_memory=text)


# Peak anonymous memory of a run beyond what the process had before, in bytes.
MEASURE = """
import os, sys
from tests.resume.test_memory import jobs_on
from pathlib import Path
from fastconv import _native
from fastconv.engine import _native_job
from tests.engine.tensors import Disk
folder, kind, bound = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
native = [_native_job(job) for job in jobs_on(Disk(folder), kind)]
files = [os.open(folder / f"out-{i}", os.O_RDWR | os.O_CREAT) for i in range(2)]
status = open("/proc/self/status")
def anonymous():
    status.seek(0)
    return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) << 10
before = peak = anonymous()
run = _native.Run(native, files, 8, max_memory=bound)
while not run.wait(0.001):
    peak = max(peak, anonymous())
print(peak - before)
"""


def jobs_on(disk: Disk, kind: str) -> list[TensorJob]:
    if kind == "plain":
        return [job(disk.put(np.zeros((640, 8192), np.float16)), "f32", "f16")]
    if kind == "columnar":
        return [job(disk.put(np.zeros((2048, 1024), np.float32)).transposed(), "f32", "q8_0")]
    base = disk.put(np.zeros((640, 8192), np.float16))
    deltas = tuple(
        LoraDelta(in_memory(np.zeros((640, 64), np.float32)), in_memory(np.zeros((64, 8192), np.float32)), 1.0)
        for _ in range(2)
    )
    return [job(base, "f32", "q8_0", deltas=deltas)]


@pytest.mark.memory
@pytest.mark.parametrize(
    "kind", ["merge", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("plain", "columnar"))]
)
def test_scratch_stays_within_the_bound(tmp_path: Path, kind: str) -> None:
    least = engine.least_memory(jobs_on(Disk(tmp_path), kind))
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    peaks = {}
    bounds = (least, least + (6 << 20))
    for bound in (*bounds, 0):
        command = [sys.executable, "-c", MEASURE, tmp_path, kind, str(bound)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=100)
        peaks[bound] = int(done.stdout)
    for bound in bounds:
        assert peaks[bound] <= bound, (kind, bound, peaks)
    assert peaks[0] > peaks[least]


def test_least_memory_grows_with_what_a_merge_holds() -> None:
    source = in_memory(values((64, 256)))
    plain = engine.least_memory([job(source, "f32")])

    def merge(rank: int) -> TensorJob:
        return job(
            source, "f32", deltas=(LoraDelta(in_memory(values((64, rank))), in_memory(values((rank, 256))), 1.0),)
        )

    first, second = engine.least_memory([merge(8)]), engine.least_memory([merge(128)])
    assert plain < first
    assert second - first >= 4 * 120 * 256
    assert engine.least_memory([]) <= plain < 2 << 20


@pytest.mark.memory
@pytest.mark.parametrize("megabytes", [24, 180, 230, 280, 700])
def test_a_limit_of_address_space_ends_in_a_file_or_a_line(wide_model: Path, tmp_path: Path, megabytes: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = [sys.executable, "-m", "fastconv", "convert", wide_model, "--outtype", "q4_0"]
    command += ["--lora", wide_model / "adapter"]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "m.gguf"), "--concurrency", "8", "--quiet"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode == 0:
        assert done.stderr == ""
        fastconv.convert(wide_model, tmp_path / "whole.gguf", outtype="q4_0", lora=wide_model / "adapter")
        assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("fastconv: error: ")
        assert done.stderr.count("\n") == 1
        assert "memory" in done.stderr
        assert list(tmp_path.iterdir()) == []
    assert megabytes < 700 or done.returncode == 0
    assert megabytes > 100 or done.returncode == 1


@pytest.mark.memory
def test_an_input_larger_than_the_address_space_says_so(wide_model: Path, tmp_path: Path) -> None:
    from tests.resume.sparse import write_sparse

    write_sparse(tmp_path / "model", models.LlamaShape(n_embd=8192, n_ff=49152, n_layer=1, n_head=64, n_head_kv=64))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (800 << 20, 800 << 20))

    done = subprocess.run(
        [sys.executable, "-m", "fastconv", "convert", tmp_path / "model", "-o", tmp_path / "m.gguf"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=100,
    )
    size = (tmp_path / "model" / "model-00001-of-00001.safetensors").stat().st_size
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"expected room for {size} bytes" in done.stderr
    assert "ulimit -v" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_threads_that_cannot_be_had_are_done_without(tmp_path: Path) -> None:
    """RLIMIT_NPROC does not bind root: stacks that do not fit the address space refuse threads too."""
    script = """
import resource, sys, os
import numpy as np
from fastconv import _native
from tests.engine.tensors import in_memory, job
from fastconv.engine import _native_job
made = [_native_job(job(in_memory(np.ones((512, 8192), np.float32)), "f16")) for _ in range(40)]
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + (90 << 20), size + (90 << 20)))
_native.share_one_arena()
out = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
run = _native.Run(made, [out], 500, max_memory=30 << 20)
assert run.wait(60)
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out"], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_bytes() == np.ones((512, 8192), np.float16).tobytes()
    assert _native.isa()


# The second process is one that holds more than any run takes, as a caller that has imported much does.
@pytest.mark.parametrize("own_bytes", [50 << 20, 3 << 30])
def test_a_control_group_bounds_scratch(
    wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_bytes: int
) -> None:
    fastconv.convert(wide_model, tmp_path / "whole.gguf", outtype="q4_0")
    with monkeypatch.context() as patch:
        patch.setattr(control_group, "own_bytes", lambda: own_bytes)
        patch.setattr(control_group, "memory_values", lambda *_: [(own_bytes + (16 << 20), own_bytes)])
        with pytest.raises(PlanError, match="control group leaves is too little for this conversion") as raised:
            fastconv.convert(wide_model, tmp_path / "m.gguf", outtype="q4_0")
        assert not (tmp_path / "m.gguf").exists()
        needed = int(str(raised.value.expected).removeprefix("at least "))
        assert needed > own_bytes
        others = 100 << 20
        patch.setattr(control_group, "memory_values", lambda *_: [(needed + others + (8 << 20), own_bytes + others)])
        bounds = []
        real = engine.run
        patch.setattr(engine, "run", lambda *a, **k: bounds.append(k["max_memory"]) or real(*a, **k))
        fastconv.convert(wide_model, tmp_path / "m.gguf", outtype="q4_0")
    assert 0 < bounds[0] < 16 << 20
    assert (tmp_path / "m.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


V2_STAT = "anon 300\nfile 5000\nshmem 40\nslab_unreclaimable 2\nslab 9\nfile_mapped 100\n"
V1_STAT = "rss 1\ncache 2\ntotal_rss 200\ntotal_cache 5000\ntotal_shmem 30\n"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1000\n"}, [(1000, 0)]),
        (
            "0::/a\n",
            {"a/memory.max": "1000\n", "a/memory.stat": V2_STAT, "memory.max": "7000"},
            [(1000, 342), (7000, 0)],
        ),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "4096\n"}, [(4096, 0)]),
        (
            "4:memory:/x\n",
            {"memory/x/memory.limit_in_bytes": "4096\n", "memory/x/memory.stat": V1_STAT},
            [(4096, 230)],
        ),
        ("4:memory:/x\n", {"memory/x/memory.limit_in_bytes": "9223372036854771712\n"}, []),
        ("4:memory:/host/path\n0::/\n", {"memory/memory.limit_in_bytes": "7\n"}, [(7, 0)]),
        ("4:cpu:/x\n", {"cpu/x/memory.limit_in_bytes": "7\n"}, []),
    ],
)
def test_limits_of_control_groups(
    tmp_path: Path, membership: str, files: dict[str, str], expected: list[tuple[int, int]]
) -> None:
    (tmp_path / "membership").write_text(membership)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(control_group.memory_values(tmp_path / "membership", tmp_path / "root")) == expected
