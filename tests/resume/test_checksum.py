"""The checksums of pieces are XXH64, held against a plain writing of its specification."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native
from fastconv.engine import _native_job
from tests.engine.tensors import in_memory, job

MASK = (1 << 64) - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def rotate(x: int, n: int) -> int:
    return ((x << n) | (x >> (64 - n))) & MASK


def mixed(lane: int, word: int) -> int:
    return rotate((lane + word * P2) & MASK, 31) * P1 & MASK


def xxh64(data: bytes) -> int:
    """Source: xxHash fast digest algorithm, specification 0.1.1; seed 0."""
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) - 7, 8)]
    n_stripes = len(data) // 32
    total = P5
    if n_stripes:
        lanes = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        for i in range(n_stripes):
            lanes = [mixed(lane, word) for lane, word in zip(lanes, words[4 * i : 4 * i + 4], strict=True)]
        total = sum(rotate(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for lane in lanes:
            total = ((total ^ mixed(0, lane)) * P1 + P4) & MASK
    total = (total + len(data)) & MASK
    for word in words[4 * n_stripes :]:
        total = (rotate(total ^ mixed(0, word), 27) * P1 + P4) & MASK
    rest = data[len(words) * 8 :]
    if len(rest) >= 4:
        total = (rotate(total ^ (int.from_bytes(rest[:4], "little") * P1 & MASK), 23) * P2 + P3) & MASK
        rest = rest[4:]
    for byte in rest:
        total = rotate(total ^ (byte * P5 & MASK), 11) * P1 & MASK
    total = (total ^ (total >> 33)) * P2 & MASK
    total = (total ^ (total >> 29)) * P3 & MASK
    return total ^ (total >> 32)


def test_the_reference_is_xxh64() -> None:
    """Values that are in many a test of other programs."""
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"a") == 0xD24EC4F1A98C6E5B
    assert xxh64(b"abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (3, 5), (7, 33), (300, 1000), (5, 100_000)], ids=str)
@pytest.mark.parametrize("direct", [True, False])
def test_checksums_of_pieces(tmp_path: Path, shape: tuple[int, int], direct: bool) -> None:
    """Of every piece, whatever the buffers that its bytes came in."""
    array = np.random.default_rng(2).standard_normal(shape).astype(np.float16)
    paths = [tmp_path / name for name in "ab"]
    files = [os.open(path, os.O_RDWR | os.O_CREAT) for path in paths]
    run = _native.Run([_native_job(job(in_memory(array), "f16", "f32"))], files, 2, direct=direct, finished=[])
    assert run.wait(60)
    chunks = sorted(run.take_finished(), key=lambda chunk: chunk.chunk)
    assert run.take_finished() == []
    assert len(chunks) == run.n_chunks
    for file in files:
        os.close(file)
    data = [path.read_bytes() for path in paths]
    assert data[0] == array.tobytes()
    if len(chunks) == 1:
        digests = b"".join(xxh64(part).to_bytes(8, "little") for part in data)
        assert chunks[0].checksum == xxh64(digests)
    else:
        assert len({chunk.checksum for chunk in chunks}) == len(chunks)
