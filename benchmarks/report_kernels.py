"""results/kernels.json to a Markdown table and a chart: encoders beside ggml's, one thread."""

from __future__ import annotations

from pathlib import Path

# A bar each, from the oldest processor to the newest.
COLOURS = {"baseline": "#b0b0b0", "neon": "#6a994e", "avx2": "#edae49", "avx512": "#d1495b"}


def over(speeds: dict[str, float], isa: str, other: str) -> str:
    """How many times the other's speed."""
    return f"{speeds[isa] / speeds[other]:.1f}x" if isa in speeds and other in speeds else "-"


def speed(speeds: dict[str, float], isa: str) -> str:
    """In million weights a second."""
    return f"{speeds[isa]:.0f}" if speeds else "-"


def encoders(found: dict, what: str) -> dict[str, dict[str, float]]:
    """Type -> speeds. what: encode, or weighted (with an importance matrix)."""
    speeds = found["million_weights_a_second"]
    return {name.split()[1]: value for name, value in speeds.items() if name.split()[0] == what}


def isas_of(found: dict) -> list[str]:
    """Those of the machine, the best first."""
    each = next(iter(encoders(found, "encode").values()))
    return [isa for isa in reversed(COLOURS) if isa in each]


def table(found: dict) -> str:
    """A row per type: the best instruction set's speed, and what each is over ggml, without importance and with."""
    isas = isas_of(found)
    plain, weighted = encoders(found, "encode"), encoders(found, "weighted")
    ratios = [f"{isa} / ggml" for isa in isas]
    head = ["type", "M weights/s", *ratios, f"{isas[0]} / NumPy", "with importance", *ratios]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in dict.fromkeys((*plain, *weighted)):
        without, heeding = plain.get(name, {}), weighted.get(name, {})
        cells = [
            name,
            speed(without, isas[0]),
            *(over(without, isa, "ggml") for isa in isas),
            over(without, isas[0], "NumPy"),
            speed(heeding, isas[0]),
            *(over(heeding, isa, "ggml") for isa in isas),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    machine = found["machine"]
    note = (
        f"Encoders, one thread, {found['weights']:,} gaussian weights of 0.02 in the second-level cache, million "
        f"weights a second of processor time with {isas[0]}, medians of {found['rounds']} rounds by turns, "
        f"{machine['cpu']}. ggml: its own library as the pywhispercpp wheel carries it (no contraction); NumPy: the "
        "reference of the tests. Bytes were compared with ggml's before anything was timed. With importance: against "
        "ggml's own path for it."
    )
    return "\n".join(rows) + "\n\n" + note


def chart(found: dict, path: Path) -> None:
    """How many times ggml's speed, for each type and instruction set, without importance and with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    isas = isas_of(found)
    groups = [
        (f"{name}{suffix}", speeds)
        for what, suffix in (("encode", ""), ("weighted", " + importance"))
        for name, speeds in encoders(found, what).items()
        if "ggml" in speeds
    ]
    figure, axes = pyplot.subplots(figsize=(9, 0.3 * len(groups) + 1.4), layout="constrained")
    height = 0.85 / len(isas)
    for group, (_, speeds) in enumerate(groups):
        for place, isa in enumerate(isas):
            ratio = speeds[isa] / speeds["ggml"]
            y = group + (place - (len(isas) - 1) / 2) * height
            axes.barh(y, ratio, height * 0.92, color=COLOURS[isa], label=isa if group == 0 else None)
            if place == 0:
                axes.annotate(f"{ratio:.1f}x", (ratio, y), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.margins(x=0.1, y=0.01)
    axes.set_xlabel("times ggml's speed, one thread (logarithmic)")
    axes.set_title("Encoders beside ggml's", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=len(isas), frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
