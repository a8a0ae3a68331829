"""Plans and results as text and JSON. Computes nothing that the plan or the result does not hold."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastconv.errors import LONGEST_NAME, printable, shortened

if TYPE_CHECKING:
    from fastconv.conversion import ConversionResult, Preparation
    from fastconv.layout.laid_out import PlacedTensor
    from fastconv.plan.job import TensorJob


def size_text(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.2f} {unit}"


def text_of(lines: Iterable[str]) -> str:
    """Lines to print, none of which can be taken for two."""
    return "\n".join(map(printable, lines))


def json_text(value: object, default: Callable[[Any], object] | None = None) -> str:
    """JSON that every parser takes: NaN and infinity, for which it has no numbers, become null."""
    return json.dumps(_finite(value, default), indent=1, allow_nan=False)


def _finite(value: Any, default: Callable[[Any], object] | None) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item, default) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, default) for item in value]
    if value is None or isinstance(value, str | int) or default is None:
        return value
    return _finite(default(value), default)


def summary_text(result: ConversionResult, seconds: float) -> str:
    """The closing lines: one per adapter, one per note, and the summary itself last."""
    lines = []
    for adapter in result.adapters:
        scales = ", ".join(f"{scale:g}" for scale in adapter.scales) or "none"
        label = "scale" if len(adapter.scales) < 2 else "scales"
        lines.append(f"{adapter.path}: {adapter.n_tensors}/{adapter.n_tensors} adapter tensors, {label} {scales}")
        lines += [f"{adapter.path}: warning: {warning}" for warning in adapter.warnings]
    if result.delta_ratios:
        import statistics  # 6 ms that most runs save

        ratios = sorted(result.delta_ratios.values())
        lines.append(
            f"{len(ratios)} tensors changed, |dW|/|W| {ratios[0]:.3g} / {statistics.median(ratios):.3g} / "
            f"{ratios[-1]:.3g} (min / median / max)"
        )
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"{output.sha256}  {output.path}" for output in result.outputs if output.sha256 is not None]
    size_out = sum(output.size for output in result.outputs)
    names = ", ".join(dict.fromkeys(output.folder or output.path for output in result.outputs))
    lines.append(
        f"{names}: {size_text(result.bytes_in)} -> {size_text(size_out)} in {seconds:.2f} s, "
        f"{(result.bytes_in + size_out) / seconds / 1e9:.2f} GB/s, peak memory {size_text(peak_memory())}"
    )
    return text_of(lines)


def summary_json(result: ConversionResult, seconds: float) -> str:
    return json_text(
        {
            "outputs": [
                {"path": o.path, "type": o.type, "bytes": o.size} | ({} if o.sha256 is None else {"sha256": o.sha256})
                for o in result.outputs
            ],
            "bytes_in": result.bytes_in,
            "tensors": result.n_tensors,
            "seconds": round(seconds, 4),
            "peak_memory_bytes": peak_memory(),
            "adapters": [
                {
                    "path": adapter.path,
                    "tensors_applied": adapter.n_tensors,
                    "tensors": adapter.n_tensors,
                    "scales": list(adapter.scales),
                    "warnings": list(adapter.warnings),
                }
                for adapter in result.adapters
            ],
            "delta_ratios": result.delta_ratios,
            "notes": list(result.notes),
        }
    )


def plan_text(prepared: Preparation) -> str:
    lines = []
    for output in _plan(prepared):
        rows = [("tensor", "source", "from", "shape", "type", "bytes", "offset")]
        for tensor in output["tensors"]:
            deltas = f" + {tensor['deltas']} LoRA" if tensor["deltas"] else ""
            shape = " x ".join(map(str, tensor["shape"]))
            place = (str(tensor["bytes"]), str(tensor["offset"]))
            rows.append(
                (tensor["name"], tensor["source"] + deltas, tensor["source_type"], shape, tensor["type"], *place)
            )
        lines += table(rows, right={5, 6})
        lines.append(f"{output['path']}: {output['type']}, {len(output['tensors'])} tensors, {output['bytes']} bytes")
    lines += [f"note: {note}" for note in prepared.notes]
    return text_of(lines)


def plan_json(prepared: Preparation) -> str:
    plan = {"outputs": _plan(prepared), "bytes_in": prepared.bytes_in, "notes": list(prepared.notes)}
    return json_text(plan)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows as aligned lines; right: the columns aligned to the right. What is longer than any name is cut."""
    rows = [[shortened(printable(cell), LONGEST_NAME) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def peak_memory() -> int:
    """The process's peak resident set in bytes, mapped pages counted."""
    # ru_maxrss survives exec and so may tell of the parent; VmHWM does not.
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _plan(prepared: Preparation) -> list[dict[str, Any]]:
    jobs = {(output.file, output.offset): job for job in prepared.jobs for output in job.outputs}
    return [
        {
            "path": file.path,
            "type": file.type.name,
            "bytes": file.laid_out.size,
            "tensors": [_planned_tensor(tensor, jobs[index, tensor.offset]) for tensor in file.laid_out.tensors],
        }
        for index, file in enumerate(prepared.files)
    ]


def _planned_tensor(tensor: PlacedTensor, job: TensorJob) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "source": job.source_name,
        "files": list(job.source.files),
        "source_type": job.source.dtype,
        "deltas": len(job.deltas),
        "shape": list(tensor.shape),
        "type": tensor.type,
        "bytes": tensor.size,
        "offset": tensor.offset,
    }
