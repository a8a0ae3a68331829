"""How fast does one thread encode and decode blocks in its second-level cache, beside ggml, NumPy and gguf.quants?

Every encoder's bytes are checked against ggml's before anything is timed. Contenders alternate within a round; the
figures are medians over many short rounds, in million weights a second of processor time: on a busy machine most of
them run undisturbed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from measure import machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fastconv import _native  # noqa: E402
from tests.kernels import ggml  # noqa: E402
from tests.oracle import blocks as oracle  # noqa: E402
from tests.oracle import iq1  # noqa: E402

Run = Callable[[int], object]  # so many times over the same weights

DECODED = [
    name
    for name, i in ggml.TYPES.items()
    if i.decodes and i.ggml_type >= 0 and (i.block_size > 1 or i.block_bytes == 2)
]
WEIGHTED = [name for name in DECODED if ggml.TYPES[name].encodes and _native.heeds_importance(name)]
ENCODED = [name for name in DECODED if ggml.TYPES[name].encodes and not ggml.TYPES[name].needs_importance]
RANK = 16
SLOW = 0.1  # seconds; what takes longer at once is timed in fewer rounds


def repeated(run: Callable[[], object]) -> Run:
    def repeat(times: int) -> None:
        for _ in range(times):
            run()

    return repeat


def encodes(kind: gguf.GGMLQuantizationType) -> bool:
    """Whether gguf.quants does."""
    try:
        gguf.quants.quantize(np.zeros((1, 256), np.float32), kind)
    except NotImplementedError:
        return False
    return True


def stored(x: np.ndarray, type: str, importance: np.ndarray | None) -> np.ndarray:
    """What every contender must write. The wheel's ggml sums the splits of IQ1_M in another order than today's."""
    if type != "iq1_m":
        return ggml.quantize(x, type, importance)
    want = _native.quantize(x, type, isa=_native.isas()[-1], importance=importance)
    each = None if importance is None else importance.reshape(-1, 256)
    if not np.array_equal(iq1.iq1_m(x[:1].reshape(-1, 256), each).ravel(), want[0]):
        raise ValueError("iq1_m: the NumPy oracle differs in the first row")
    return want


def encode_contenders(x: np.ndarray, type: str, importance: np.ndarray | None = None) -> dict[str, Run]:
    """Name -> one run over x. Raises ValueError where bytes differ from ggml's."""
    want = stored(x, type, importance)
    out = np.empty_like(want)
    contenders: dict[str, Run] = {}
    for isa in _native.isas():
        contenders[isa] = lambda times, isa=isa: _native.quantize_into(x, type, out, isa, times, importance)
    contenders["ggml"] = repeated(lambda: ggml.quantize_into(x, type, out, importance))
    for name, run in contenders.items():
        out[:] = 0xFF
        run(1)
        if not np.array_equal(out, want) and (type, name) != ("iq1_m", "ggml"):
            raise ValueError(f"{type}: bytes differ from ggml's")
    if type.startswith("iq"):  # NumPy would take minutes, gguf.quants cannot encode them
        return contenders
    contenders["NumPy"] = repeated(lambda: oracle.encode(x, type, importance))
    if not np.array_equal(oracle.encode(x, type, importance), want):
        raise ValueError(f"{type}: the NumPy oracle differs from ggml")
    kind = gguf.GGMLQuantizationType[type.upper()]
    if importance is None and encodes(kind):
        if not np.array_equal(gguf.quants.quantize(x, kind).view(np.uint8), want):
            raise ValueError(f"{type}: gguf.quants differs from ggml")
        contenders["gguf.quants"] = repeated(lambda: gguf.quants.quantize(x, kind))
    return contenders


def decode_contenders(x: np.ndarray, type: str) -> dict[str, Run]:
    """Name -> runs over the blocks of x. Raises ValueError where values differ from gguf's."""
    even = np.ones(x.shape[1], np.float32) if ggml.TYPES[type].needs_importance else None
    blocks, kind = ggml.quantize(x, type, even), gguf.GGMLQuantizationType[type.upper()]
    want = gguf.quants.dequantize(blocks, kind)
    out = np.empty_like(x)
    contenders: dict[str, Run] = {}
    for isa in _native.isas():
        contenders[isa] = lambda times, isa=isa: _native.dequantize_into(blocks, type, out, isa, times)
        contenders[isa](1)
        if not np.array_equal(out, want):
            raise ValueError(f"decode {type}: {isa} differs from gguf.quants")
    contenders["gguf.quants"] = repeated(lambda: gguf.quants.dequantize(blocks, kind))
    return contenders


def merge_contenders(n_rows: int, n_cols: int) -> dict[str, Run]:
    """A low-rank update of float32 rows, ours and that of the BLAS behind NumPy."""
    rng = np.random.default_rng(1)
    rows, b, a = (
        rng.standard_normal(shape).astype(np.float32) for shape in [(n_rows, n_cols), (n_rows, RANK), (RANK, n_cols)]
    )
    b *= np.float32(1e-6)  # so that rounds beyond number leave the rows finite
    contenders: dict[str, Run] = {}
    for isa in _native.isas():
        contenders[isa] = repeated(lambda isa=isa: _native.lora_add(rows, b, a, 0.5, isa))

    def blas() -> None:
        rows[...] += np.float32(0.5) * (b @ a)

    contenders["NumPy"] = repeated(blas)
    return contenders


def medians(contenders: dict[str, Run], n: int, rounds: int, seconds: float) -> dict[str, float]:
    """Million elements a second of processor time, of each contender, which runs about `seconds` in every round."""
    repeats, turns = {}, {}
    for name, run in contenders.items():
        run(1)
        start = time.process_time()
        run(1)
        once = max(time.process_time() - start, 1e-6)
        repeats[name] = max(1, round(seconds / once))
        turns[name] = rounds if once < SLOW else 3
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, run in contenders.items():
            if turn >= turns[name]:
                continue
            start = time.process_time()
            run(repeats[name])
            speeds[name].append(n * repeats[name] / (time.process_time() - start) / 1e6)
    return {name: statistics.median(values) for name, values in speeds.items()}


def table(results: dict[str, dict[str, float]]) -> str:
    names = [*_native.isas(), "ggml", "NumPy", "gguf.quants"]
    best = names[0]
    ratios = names[len(_native.isas()) :]
    head = [f"{'M weights/s':27}", *(f"{name:>11}" for name in names), *(f"{best}/{name}" for name in ratios)]
    lines = ["  ".join(head)]
    for what, speeds in results.items():
        cells = [f"{what:27}"]
        cells += [f"{speeds[name]:11.0f}" if name in speeds else f"{'-':>11}" for name in names]
        for name in ratios:
            cell = f"{speeds[best] / speeds[name]:.1f}x" if name in speeds else "-"
            cells.append(f"{cell:>{len(best) + 1 + len(name)}}")
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=1 << 17, help="in the cache at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.002, help="of each contender in a round")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    arguments = parser.parse_args()

    n_cols = 2048
    if arguments.weights < n_cols or arguments.weights % n_cols:
        parser.error(f"--weights: found {arguments.weights}, expected a multiple of {n_cols}")
    n = arguments.weights
    # Weights as they come: normal, in bf16, decoded to f32.
    x = np.random.default_rng(0).standard_normal((n // n_cols, n_cols)).astype(np.float32) * np.float32(0.02)
    x = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    results = {}
    for type in ENCODED:
        results[f"encode {type}"] = medians(encode_contenders(x, type), n, arguments.rounds, arguments.seconds)
    # How much columns matter, as the mean squares of their activations do.
    importance = np.random.default_rng(1).standard_normal(n_cols).astype(np.float32) ** 2
    for type in WEIGHTED:
        contenders = encode_contenders(x, type, importance)
        results[f"weighted {type}"] = medians(contenders, n, arguments.rounds, arguments.seconds)
    for type in DECODED:
        results[f"decode {type}"] = medians(decode_contenders(x, type), n, arguments.rounds, arguments.seconds)
    results[f"merge rank {RANK}"] = medians(
        merge_contenders(n // n_cols, n_cols), n, arguments.rounds, arguments.seconds
    )
    whole = {"machine": machine(), "weights": n, "rounds": arguments.rounds, "million_weights_a_second": results}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "kernels.json").write_text(json.dumps(whole, indent=2) + "\n")
    print(json.dumps(whole, indent=2) if arguments.json else table(results))


if __name__ == "__main__":
    main()
