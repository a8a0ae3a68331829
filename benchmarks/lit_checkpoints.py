"""From a Lit-GPT checkpoint and its LoRA to Hugging Face's files: fastconv, LitGPT's own two commands, and the floor.

LitGPT runs with --litgpt-python, an interpreter with torch and safetensors; --litgpt names folders with its packages.
It merges in bf16, which is what it does by default; the outputs are held against each other before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from contenders import HERE, build_floor
from measure import Samples, machine, run_once, warm
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

# Equal but where the LoRA is: there as close as bf16 merges come to merges in f32.
COMPARE = """
import sys, torch
from safetensors import safe_open
ours, theirs = sys.argv[1:3]
theirs = torch.load(theirs, mmap=True, weights_only=True)
with safe_open(ours, "pt") as file:
    assert set(file.keys()) == set(theirs), set(file.keys()) ^ set(theirs)
    for name in file.keys():
        found, expected = file.get_tensor(name), theirs[name]
        if not any(part in name for part in ("q_proj", "v_proj")):
            assert torch.equal(found, expected), name
            continue
        assert found.dtype == expected.dtype
        found, expected = found.float(), expected.float()
        assert (found - expected).abs().max() <= 2 ** -7 * expected.abs().max(), name
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/benchmark"), help="models and outputs; 20 GB")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--python", type=Path, default=sys.executable, help="an interpreter with fastconv alone")
    parser.add_argument("--litgpt-python", type=Path, default=sys.executable, help="one with torch")
    prefix = Path(sys.prefix)
    parser.add_argument("--litgpt", nargs="*", default=[prefix / "litgpt-0.5.13", prefix / "litgpt-common"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="of fastconv and the floor")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of LitGPT")
    parser.add_argument("--tiny", action="store_true", help="a model of seconds, to try the benchmark itself")
    return parser.parse_args()


def main() -> None:
    """Make the checkpoints, compare the outputs, measure by turns, write results/lit_checkpoints.json."""
    arguments = parse_arguments()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    shape, size = (TINY, "tiny") if arguments.tiny else (Shape(), "1.1b")
    base, lora = make_case(arguments, shape, size)
    build_floor(arguments.directory)
    out, theirs, merged = arguments.directory / "lit-out", arguments.directory / "lit-theirs", lora / "lit_model.pth"
    weights = base / "lit_model.pth"
    environment = {"PYTHONPATH": ":".join(map(str, arguments.litgpt))}
    n_bytes = weights.stat().st_size

    def floor(sync: int) -> list[str]:
        program = arguments.directory / "floor"
        return [*map(str, (program, arguments.threads, weights, out / "model.safetensors", n_bytes, sync))]

    fastconv = [arguments.python, "-m", "fastconv", "convert", weights, "--to", "hf", "--outfile", out, "--lora", lora]
    fastconv += ["--shard-size", "1TB", "--concurrency", str(arguments.threads), "--quiet"]
    contenders: dict[str, tuple[int, list[str], dict[str, str]]] = {
        "fastconv": (arguments.rounds, [*map(str, fastconv)], {}),
        "fastconv --no-sync": (arguments.rounds, [*map(str, fastconv), "--no-sync"], {}),
        "floor": (arguments.rounds, floor(0), {}),
        "floor, synced": (arguments.rounds, floor(1), {}),
        "LitGPT": (
            arguments.slow_rounds,
            [*map(str, (arguments.litgpt_python, "-c", MERGE_AND_CONVERT, lora, base, theirs))],
            environment,
        ),
    }

    def clear() -> None:
        for folder in (out, theirs):
            shutil.rmtree(folder, ignore_errors=True)
        merged.unlink(missing_ok=True)

    samples = {name: Samples() for name in contenders}

    def run(name: str) -> None:
        _, command, variables = contenders[name]
        warm(base)
        out.mkdir(exist_ok=True)
        if name != "LitGPT":  # as in end_to_end.py
            run_once(command, environment=variables)
            clear()
            out.mkdir()
            os.sync()
        seconds, peak = run_once(command, environment=variables)
        samples[name].seconds.append(seconds)
        samples[name].peak_rss.append(peak)
        print(f"{name:19} {seconds:7.2f} s {peak / 1e6:7.0f} MB", flush=True)

    clear()
    run("fastconv")
    run("LitGPT")
    run_once([str(arguments.litgpt_python), "-c", COMPARE, str(out / "model.safetensors"), str(theirs / "model.pth")])
    samples["fastconv"] = Samples()  # LitGPT's first round counts: it takes minutes
    for turn in range(arguments.rounds):
        for name, (rounds, _, _) in contenders.items():
            if turn < rounds and len(samples[name].seconds) < rounds:
                clear()
                run(name)
    clear()
    result = {
        "machine": machine(),
        "threads": arguments.threads,
        "model": size,
        "input_bytes": n_bytes,
        "contenders": {name: found.summary() for name, found in samples.items()},
    }
    median = {name: case["seconds"]["median"] for name, case in result["contenders"].items()}
    print(f"{median['LitGPT'] / median['fastconv']:.1f} times LitGPT's speed")
    print(f"{median['fastconv'] / median['floor, synced']:.2f} times the synced floor's time")
    print(f"{median['fastconv --no-sync'] / median['floor']:.2f} times the floor's time without syncing")
    (arguments.results / "lit_checkpoints.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
