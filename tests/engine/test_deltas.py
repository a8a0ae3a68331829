"""The merge, against a NumPy float32 loop in the documented order, bit by bit, and against float64."""

from __future__ import annotations

import numpy as np
import pytest

from fastconv.adapter.delta import LoraDelta
from fastconv.checkpoint.lazy_tensor import LazyTensor
from tests.engine.tensors import Disk, in_memory, job, values


def merged(base: np.ndarray, b: np.ndarray, a: np.ndarray, scale: float) -> np.ndarray:
    """base + scale * B A in float32: the sum over the rank index in order, then the scale, then the base."""
    base, b, a = (x.astype(np.float32) for x in (base, b, a))
    total = np.zeros_like(base)
    for r in range(b.shape[1]):
        total = total + b[:, r : r + 1] * a[r : r + 1]
    return base + np.float32(scale) * total


def lora(b: np.ndarray, a: np.ndarray, scale: float, magnitude: np.ndarray | None = None) -> LoraDelta:
    column = None if magnitude is None else in_memory(magnitude.reshape(-1, 1))
    return LoraDelta(in_memory(b), in_memory(a), scale, column)


@pytest.mark.parametrize("shape", [(70, 96), (1, 300), (300, 1), (5, 2048)])
@pytest.mark.parametrize("rank", [0, 1, 3, 16])
def test_order_of_the_sum(disk: Disk, shape: tuple[int, int], rank: int) -> None:
    base, b, a = values(shape, "bf16"), values((shape[0], rank), "bf16", 1), values((rank, shape[1]), "f16", 2)
    (written,) = disk.run([job(disk.put(base), "f32", deltas=(lora(b, a, 0.3),))])
    assert written == merged(base, b, a, 0.3).tobytes()


def test_several_deltas_apply_in_order(disk: Disk) -> None:
    base = values((40, 64), "bf16")
    parts = [(values((40, rank), seed=rank), values((rank, 64), seed=rank + 50), 0.1 * rank) for rank in (2, 8, 5)]
    expected: np.ndarray = base
    for b, a, scale in parts:
        expected = merged(expected, b, a, scale)
    tensor = disk.put(base)
    written = [
        disk.run([job(tensor, "f32", deltas=tuple(lora(*p) for p in parts))], threads=threads, tile_bytes=tile)[0]
        for threads, tile in ((1, 0), (3, 64), (2, 3000))
    ]
    assert written == [expected.tobytes()] * 3


def test_delta_of_rearranged_rows(disk: Disk) -> None:
    base, b, a = values((64, 96), "bf16"), values((64, 4), seed=1), values((4, 96), seed=2)
    index = np.random.default_rng(3).permutation(64)
    delta = lora(b, a, 2.0).with_rows(index)
    (written,) = disk.run([job(disk.put(base).with_rows(index), "f32", deltas=(delta,))])
    assert written == merged(base, b, a, 2.0)[index].tobytes()


def test_delta_of_transposed_base_and_factors(disk: Disk) -> None:
    """fan_in_fan_out: every matrix lies the other way round."""
    base, b, a = values((96, 64), "bf16"), values((4, 64), seed=1), values((96, 4), seed=2)
    delta = LoraDelta(disk.put(b).transposed(), disk.put(a).transposed(), 0.5)
    (written,) = disk.run([job(disk.put(base).transposed(), "f32", deltas=(delta,))])
    assert written == merged(base.T, b.T, a.T, 0.5).tobytes()


def test_dora(disk: Disk) -> None:
    base, b, a = values((50, 300), "bf16"), values((50, 8), seed=1), values((8, 300), seed=2)
    magnitude = np.abs(values((50,), seed=3)) + 1
    first, second = lora(b, a, 0.25, magnitude), lora(b[:, :2], a[:2], 1.0)
    (written,), (stats,) = disk.run_with_stats([job(disk.put(base), "f32", deltas=(first, second))])
    plain = base.astype(np.float64) + 0.25 * b.astype(np.float64) @ a
    rescaled = plain * (magnitude / np.linalg.norm(plain, axis=1))[:, None] + b[:, :2].astype(np.float64) @ a[:2]
    found = np.frombuffer(written, np.float32).reshape(base.shape)
    np.testing.assert_allclose(found, rescaled, rtol=2e-6, atol=2e-6)
    assert stats is not None
    assert stats.delta_norm == pytest.approx(np.linalg.norm(rescaled - base.astype(np.float64)), rel=1e-6)


@pytest.mark.parametrize("rank", [4, 40])
def test_stats(disk: Disk, rank: int) -> None:
    """By the Gram matrix of A where the rank is small, else from the rows themselves."""
    base, b, a = values((60, 128), "bf16"), values((60, rank), seed=1), values((rank, 128), seed=2)
    jobs = [
        job(disk.put(base), "f32", deltas=(lora(b, a, -0.5), lora(b[:, :3], a[:3], 2.0))),
        job(disk.put(base), "f32", offset=base.size * 4),
    ]
    results = [
        disk.run_with_stats(jobs, threads=threads, tile_bytes=tile)[1]
        for threads, tile in ((1, 0), (3, 512), (5, 8000))
    ]
    b64, a64 = b.astype(np.float64), a.astype(np.float64)
    change = -0.5 * b64 @ a64 + 2.0 * b64[:, :3] @ a64[:3]
    stats, none = results[0]
    assert none is None
    assert stats is not None
    assert stats.delta_norm == pytest.approx(np.linalg.norm(change), rel=1e-5)
    assert stats.base_norm == pytest.approx(np.linalg.norm(base.astype(np.float64)), rel=1e-6)
    for other, _ in results[1:]:
        assert other is not None
        assert (other.delta_norm, other.base_norm) == (stats.delta_norm, stats.base_norm)


def test_delta_that_changes_nothing(disk: Disk) -> None:
    base, a = values((16, 64), "bf16"), values((4, 64))
    delta = lora(np.zeros((16, 4), np.float32), a, 1.0)
    (written,), (stats,) = disk.run_with_stats([job(disk.put(base), "bf16", deltas=(delta,))])
    assert written == base.tobytes()
    assert stats is not None
    assert stats.delta_norm == 0.0


def test_deltas_that_cancel(disk: Disk) -> None:
    base, b, a = values((16, 64)), values((16, 4), seed=1), values((4, 64), seed=2)
    deltas = (lora(b, a, 1.0), lora(b, a, -1.0))
    _, (stats,) = disk.run_with_stats([job(disk.put(base), "f32", deltas=deltas)])
    assert stats is not None
    assert stats.delta_norm == pytest.approx(0.0, abs=1e-5)


def test_delta_on_joined_parts(disk: Disk) -> None:
    left, right = values((20, 32), "bf16"), values((20, 64), "bf16", 1)
    b, a = values((20, 3), seed=2), values((3, 96), seed=3)
    tensor = LazyTensor.joined("joined", [disk.put(left), disk.put(right)], 1)
    (written,) = disk.run([job(tensor, "f32", deltas=(lora(b, a, 1.5),))])
    assert written == merged(np.concatenate([left, right], 1), b, a, 1.5).tobytes()
