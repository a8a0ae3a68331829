"""From a Lit-GPT checkpoint and its LoRA to Hugging Face's files: fastconv, LitGPT's own two commands, and the floor.

LitGPT runs with --litgpt-python, an interpreter with torch; --litgpt names folders with its packages. CPU time is
printed beside wall time: it tells even where the machine is shared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from contenders import HERE, build_floor
from measure import machine, run_once, warm
from models import LORA_ALPHA, LORA_RANK, TINY, Shape, make_model

# What `finetune_lora` leaves behind, factors drawn at random. Runs where torch is.
MAKE_LORA = """
import sys, torch, yaml
from pathlib import Path
out, n_layer, n_embd, n_rows, rank, alpha = Path(sys.argv[1]), *map(int, sys.argv[2:7])
torch.manual_seed(0)
state = {}
for layer in range(n_layer):
    prefix = f"transformer.h.{layer}.attn.qkv.lora_"
    state[prefix + "A"] = (torch.randn(2 * rank, n_embd) * 0.02).bfloat16()
    state[prefix + "B"] = (torch.randn(n_rows, rank) * 0.02).bfloat16()
torch.save({"model": state}, out / "lit_model.pth.lora")
flags = {f"lora_{name}": name in ("query", "value") for name in ("query", "key", "value", "projection", "mlp", "head")}
settings = flags | {"lora_r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "checkpoint_dir": "", "precision": None}
(out / "hyperparameters.yaml").write_text(yaml.safe_dump(settings))
"""

MERGE_AND_CONVERT = """
import sys
from pathlib import Path
from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
from litgpt.scripts.merge_lora import merge_lora
lora, base, out = map(Path, sys.argv[1:4])
merge_lora(lora, base, precision="bf16-true")
convert_lit_checkpoint(lora, out)
"""


def make_case(arguments: argparse.Namespace, shape: Shape, name: str) -> tuple[Path, Path]:
    """The base in Lit-GPT's form, and the folder of a LoRA of its query and value."""
    base, lora = arguments.directory / f"lit-{name}", arguments.directory / f"lit-lora-{name}"
    model = make_model(arguments.directory / f"model-{name}", shape)
    if not base.exists():
        run_once([arguments.python, "-m", "fastconv", "convert", model, "--to", "litgpt", "--outfile", base])
    if not (lora / "hyperparameters.yaml").exists():
        lora.mkdir(exist_ok=True)
        sizes = [shape.n_layer, shape.n_embd, shape.n_embd + shape.n_kv, LORA_RANK, LORA_ALPHA]
        run_once([arguments.litgpt_python, "-c", MAKE_LORA, lora, *map(str, sizes)])
    for beside in ("model_config.yaml", "config.json"):
        shutil.copy(base / beside, lora)
    for folder in (base, lora):  # LitGPT looks for them, and no further
        for beside in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / beside).exists():
                (folder / beside).write_text("{}")
    return base, lora


def main() -> None:
    """Write results/litgpt.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/benchmark"), help="models and outputs; 20 GB")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with fastconv")
    parser.add_argument("--litgpt-python", type=Path, default=sys.executable, help="one with torch")
    prefix = Path(sys.prefix)
    parser.add_argument("--litgpt", nargs="*", default=[prefix / "litgpt-0.5.13", prefix / "litgpt-common"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    shape, name = (TINY, "tiny") if arguments.tiny else (Shape(), "1.1b")
    base, lora = make_case(arguments, shape, name)
    build_floor(arguments.directory)
    out, merged = arguments.directory / "lit-out", lora / "lit_model.pth"
    weights = base / "lit_model.pth"
    path = {"PYTHONPATH": ":".join(map(str, arguments.litgpt))}
    fastconv = [arguments.python, "-m", "fastconv", "convert", base / "lit_model.pth", "--to", "hf", "--outfile", out]
    n_bytes = weights.stat().st_size
    floor = [arguments.directory / "floor", str(arguments.threads), weights, out / "floor", str(n_bytes), "1"]
    contenders = {
        "fastconv": ([*fastconv, "--lora", lora, "--concurrency", str(arguments.threads), "--quiet"], {}),
        "LitGPT": ([arguments.litgpt_python, "-c", MERGE_AND_CONVERT, lora, base, out], path),
        "floor, synced": (floor, {}),
    }
    warm(base)
    found: dict[str, dict[str, list[float]]] = {key: {"seconds": [], "peak_rss": []} for key in contenders}
    for _ in range(arguments.rounds):
        for key, (command, environment) in contenders.items():
            shutil.rmtree(out, ignore_errors=True)
            merged.unlink(missing_ok=True)
            if key.startswith("floor"):
                out.mkdir()
            seconds, peak = run_once(list(map(str, command)), environment=environment)
            found[key]["seconds"].append(seconds)
            found[key]["peak_rss"].append(peak)
            print(f"{key:14} {seconds:7.2f} s {peak / 1e6:7.0f} MB", flush=True)
    shutil.rmtree(out, ignore_errors=True)
    merged.unlink(missing_ok=True)
    best = {key: min(samples["seconds"]) for key, samples in found.items()}
    print(f"{best['LitGPT'] / best['fastconv']:.1f} times LitGPT's speed")
    print(f"{best['fastconv'] / best['floor, synced']:.2f} times the floor's time")
    cases = {
        key: {"seconds": statistics.median(samples["seconds"]), "best": best[key], "peak_rss": max(samples["peak_rss"])}
        for key, samples in found.items()
    }
    result = {"machine": machine(), "threads": arguments.threads, "model": name, "cases": cases}
    (arguments.results / "litgpt.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
