"""results/*.json to Markdown tables and charts, and these into README.md between its benchmark marks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import report_kernels
from contenders import HERE

README = HERE.parent / "README.md"
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
COLOURS = {
    "floor": "#b0b0b0",
    "fastconv": "#d1495b",
    "fastconv --no-sync": "#e8a0a9",
    "llama.cpp": "#30638e",
    "NumPy": "#edae49",
    "gguf.quants": "#8d96a3",
}


def median(case: dict, contender: str) -> float | None:
    """Seconds, None where the contender did not take part."""
    found = case["contenders"].get(contender)
    return None if found is None else found["seconds"]["median"]


def seconds(case: dict, contender: str) -> str:
    """Median and the range around it."""
    found = case["contenders"].get(contender)
    if found is None:
        return "-"
    t = found["seconds"]
    return f"{t['median']:.2f}" + (f" ({t['min']:.2f}-{t['max']:.2f})" if t["rounds"] > 1 else "")


def ratio(case: dict, over: str, under: str) -> str:
    """How many times longer one takes than the other."""
    a, b = median(case, over), median(case, under)
    return "-" if a is None or b is None else f"{a / b:.1f}x"


def checks(end_to_end: dict) -> str:
    """Which outputs were held against whose."""
    by_whom: dict[str, list[str]] = {}
    for name, case in end_to_end["cases"].items():
        for other in case["checked"]:
            by_whom.setdefault(other, []).append(name)
    return "; ".join(f"equal to those of {other}: {', '.join(names)}" for other, names in by_whom.items())


def rounds(end_to_end: dict) -> str:
    """How often each contender ran."""
    counts: dict[str, set[int]] = {}
    for case in end_to_end["cases"].values():
        for name, contender in case["contenders"].items():
            counts.setdefault(name, set()).add(contender["seconds"]["rounds"])
    return "Rounds: " + ", ".join(f"{name} {'-'.join(map(str, sorted(n)))}" for name, n in counts.items()) + "."


def table(end_to_end: dict, memory: dict | None) -> str:
    """The figures of every case, in seconds, and the peaks."""
    rows = [
        "| output | fastconv, s | synced floor, s | over it | with --no-sync, s | floor, s | over it | llama.cpp, s "
        "| faster by | NumPy, s | peak, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in end_to_end["cases"].items():
        peak = case["contenders"]["fastconv"]["peak_rss"] / 1e6
        rows.append(
            f"| {name} | {seconds(case, 'fastconv')} | {seconds(case, 'floor, synced')} "
            f"| {ratio(case, 'fastconv', 'floor, synced')} | {seconds(case, 'fastconv --no-sync')} "
            f"| {seconds(case, 'floor')} | {ratio(case, 'fastconv --no-sync', 'floor')} "
            f"| {seconds(case, 'llama.cpp')} | {ratio(case, 'llama.cpp', 'fastconv')} | {seconds(case, 'NumPy')} "
            f"| {peak:.0f} |"
        )
    machine = end_to_end["machine"]
    notes = [
        f"{end_to_end['model']['parameters'] / 1e9:.1f} billion parameters in bf16 "
        f"({end_to_end['input_bytes'] / 1e9:.2f} GB, in the page cache), whole processes, "
        f"{end_to_end['threads']} threads, {machine['cpu']} with {machine['cpus']} CPUs. Median (min-max). "
        f"The floor: {end_to_end['floor']}, by {end_to_end['threads']} threads; the synced floor also waits until they "
        "are on the disk, as fastconv does before it renames its file unless told --no-sync, and llama.cpp does not. "
        "llama.cpp: convert_hf_to_gguf.py, export-lora and quantize (b11434), as the case needs. "
        "fastconv and the floors ran twice in a row, of which the second counts. "
        f"Outputs were checked before anything was timed: {checks(end_to_end)}. {rounds(end_to_end)}",
    ]
    notes += [
        f"{name}: {ratio(case, 'fastconv', 'fastconv without LoRA')} the time without, in the same rounds."
        for name, case in end_to_end["cases"].items()
        if "fastconv without LoRA" in case["contenders"]
    ]
    if memory is not None:
        peaks = "; ".join(
            f"{name} {sizes['1x']['peak_rss'] / 1e6:.0f} and {sizes['4x']['peak_rss'] / 1e6:.0f} MB"
            for name, sizes in memory["cases"].items()
        )
        notes.append(
            f"Peak resident memory, mapped pages counted, for this model and one four times as large: {peaks}."
        )
    return "\n".join(rows) + "\n\n" + "\n\n".join(notes)


def lit_table(found: dict) -> str:
    """Lit-GPT and its LoRA to Hugging Face's files."""
    rows = [
        "| Lit-GPT + LoRA to Hugging Face | fastconv, s | synced floor, s | over it | with --no-sync, s | floor, s "
        "| over it | LitGPT, s | faster by | peak, MB | LitGPT's peak, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        f"| {found['model']}, bf16 | {seconds(found, 'fastconv')} | {seconds(found, 'floor, synced')} "
        f"| {ratio(found, 'fastconv', 'floor, synced')} | {seconds(found, 'fastconv --no-sync')} "
        f"| {seconds(found, 'floor')} | {ratio(found, 'fastconv --no-sync', 'floor')} | {seconds(found, 'LitGPT')} "
        f"| {ratio(found, 'LitGPT', 'fastconv')} "
        f"| {found['contenders']['fastconv']['peak_rss'] / 1e6:.0f} "
        f"| {found['contenders']['LitGPT']['peak_rss'] / 1e6:.0f} |",
    ]
    machine = found["machine"]
    note = (
        f"lit_model.pth of {found['input_bytes'] / 1e9:.2f} GB in the page cache, a LoRA of query and value, whole "
        f"processes by turns, {found['threads']} threads, {machine['cpu']} with {machine['cpus']} CPUs. Median "
        "(min-max). LitGPT 0.5.13: merge_lora and convert_from_litgpt in one process, in bf16. Equal tensors but for "
        f"the merged ones, which LitGPT rounds more often. {rounds({'cases': {'': found}})}"
    )
    return "\n".join(rows) + "\n\n" + note


def chart(end_to_end: dict, path: Path) -> None:
    """Horizontal bars on a logarithmic scale, a group for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = end_to_end["cases"]
    present = [name for name in COLOURS if any(name in case["contenders"] for case in cases.values())]
    figure, axes = pyplot.subplots(figsize=(9, 0.9 * len(cases) + 1.4), layout="constrained")
    height = 0.85 / len(present)
    for group, case in enumerate(cases.values()):
        for place, name in enumerate(present):
            t = median(case, name)
            if t is None:
                continue
            y = group + (place - (len(present) - 1) / 2) * height
            axes.barh(y, t, height * 0.92, color=COLOURS[name], label=name if group == 0 else None)
            label = f"{t:.2g} s" if t < 10 else f"{t:.0f} s"
            axes.annotate(label, (t, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(cases)), list(cases))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("seconds, whole process (logarithmic)")
    parameters = end_to_end["model"]["parameters"] / 1e9
    axes.set_title(f"{parameters:.1f}B bf16 checkpoint to GGUF, {end_to_end['threads']} threads", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(present), frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Write results/table.md and the charts beside it; with --readme, put them into README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", action="store_true")
    arguments = parser.parse_args()
    end_to_end = json.loads((arguments.results / "end_to_end.json").read_text())
    memory_file = arguments.results / "memory.json"
    memory = json.loads(memory_file.read_text()) if memory_file.exists() else None
    text = table(end_to_end, memory)
    lit_file = arguments.results / "lit_checkpoints.json"
    if lit_file.exists():
        text += "\n\n" + lit_table(json.loads(lit_file.read_text()))
    kernels_file = arguments.results / "kernels.json"
    if kernels_file.exists():
        kernels = json.loads(kernels_file.read_text())
        report_kernels.chart(kernels, arguments.results / "kernels.png")
        image = "![Encoders beside ggml's](benchmarks/results/kernels.png)"
        folded = f"<details>\n<summary>Figures</summary>\n\n{report_kernels.table(kernels)}\n\n</details>"
        text += f"\n\n{image}\n\n{folded}"
    (arguments.results / "table.md").write_text(text + "\n")
    chart(end_to_end, arguments.results / "chart.png")
    if arguments.readme:
        before, rest = README.read_text().split(BEGIN)
        after = rest.split(END)[1]
        image = "![Seconds per conversion](benchmarks/results/chart.png)"
        command = '`make benchmark` measures it anew; `BENCHMARK_FLAGS="--llama-cpp SOURCE BIN"` adds llama.cpp.'
        README.write_text(f"{before}{BEGIN}\n{image}\n\n{text}\n\n{command}\n{END}{after}")


if __name__ == "__main__":
    main()
