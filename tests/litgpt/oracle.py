"""Runs in an environment with a LitGPT of some version: its own conversions, merges and logits, for models of ours.

A line of its input is a JSON list of tasks, each {"do": name, ...}, see the functions; it answers with a line, or
ends with an error. LitGPT takes seconds to import, so one process serves a whole run.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

warnings.simplefilter("ignore")


def register(config: dict[str, Any]) -> None:
    """Let LitGPT know the model by its name."""
    import litgpt.config

    known = set(litgpt.config.Config.__dataclass_fields__)
    kept = {key: value for key, value in config.items() if key in known}
    litgpt.config.configs.append(kept)
    litgpt.config.name_to_config[config["name"]] = kept


def from_hf(config: dict[str, Any], directory: str) -> None:
    """convert_hf_checkpoint: writes lit_model.pth and model_config.yaml beside the weights."""
    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint

    register(config)
    convert_hf_checkpoint(Path(directory), model_name=config["name"])


def to_hf(directory: str, output: str) -> None:
    """convert_lit_checkpoint: writes model.pth."""
    from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint

    convert_lit_checkpoint(Path(directory), Path(output))


def merge(directory: str, base: str) -> None:
    from litgpt.scripts.merge_lora import merge_lora

    for name in ("tokenizer.json", "tokenizer_config.json"):
        for folder in (directory, base):
            (Path(folder) / name).touch()
    merge_lora(Path(directory), Path(base), precision="32-true")


def logits(directory: str, output: str, tokens: list[list[int]], lora: str | None = None) -> None:
    """Of the model in a directory as LitGPT loads it, in f32; with lora: unmerged, as in training."""
    hyper = {}
    if lora is None:
        from litgpt.model import GPT, Config
    else:
        import yaml
        from litgpt.lora import GPT, Config  # type: ignore[no-redef]

        settings = yaml.safe_load((Path(lora) / "hyperparameters.yaml").read_text())
        hyper = {key: value for key, value in settings.items() if key.startswith("lora_")}
    model = GPT(Config.from_file(Path(directory) / "model_config.yaml", **hyper))
    state = torch.load(Path(directory) / "lit_model.pth", weights_only=False)
    state = state.get("model", state)
    if lora is not None:
        state |= torch.load(Path(lora) / "lit_model.pth.lora", weights_only=False)["model"]
    model.load_state_dict(state)
    model.float().eval()
    with torch.no_grad():
        torch.save(model(torch.tensor(tokens)), output)


def train_lora(directory: str, output: str, seed: int, hyper: dict[str, Any], dtype: str = "float32") -> None:
    """A LoRA as finetune_lora saves it, its factors drawn at random rather than trained."""
    import yaml
    from litgpt.lora import GPT, Config, lora_filter

    torch.manual_seed(seed)
    model = GPT(Config.from_file(Path(directory) / "model_config.yaml", **hyper))
    state = {name: tensor for name, tensor in model.state_dict().items() if lora_filter(name, tensor)}
    state = {name: (torch.randn(tensor.shape) * 0.1).to(getattr(torch, dtype)) for name, tensor in state.items()}
    out = Path(output)
    out.mkdir(parents=True)
    torch.save({"model": state}, out / "lit_model.pth.lora")
    (out / "hyperparameters.yaml").write_text(yaml.safe_dump(hyper | {"checkpoint_dir": directory, "precision": None}))
    for name in ("model_config.yaml", "config.json"):
        if (Path(directory) / name).exists():
            (out / name).write_bytes((Path(directory) / name).read_bytes())


TASKS = {
    "register": register,
    "from_hf": from_hf,
    "to_hf": to_hf,
    "merge": merge,
    "logits": logits,
    "train_lora": train_lora,
}


def main() -> None:
    import litgpt.api  # noqa: F401

    gc.freeze()  # LitGPT collects garbage after every conversion, and would go through all that it imported
    for line in sys.stdin:
        for task in json.loads(line):
            arguments = dict(task)
            name = arguments.pop("do")
            with contextlib.redirect_stdout(io.StringIO()):
                try:
                    TASKS[name](**arguments)
                except Exception as error:
                    raise RuntimeError(f"{name} {arguments}") from error
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
