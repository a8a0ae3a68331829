"""Every family as a tiny random model of transformers, and what two versions of LitGPT make of it.

LitGPT runs in processes of its own, from folders that `make` fills beside the environment: it wants other versions.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.litgpt.families import FAMILIES, Family

ORACLE = Path(__file__).with_name("oracle.py")
TOKENS = [[(7 * i + 3 * j) % 128 for i in range(20)] for j in range(2)]
TODAY, BEFORE = "0.5.13", "0.5.3"
"""The last LitGPT with each layout of QKV."""


def hyper(parts: str, *, rest: bool = False, head: bool = False) -> dict[str, Any]:
    """finetune_lora's settings; parts: of QKV."""
    flags = {f"lora_{name}": name[0] in parts for name in ("query", "key", "value")}
    others = {"lora_projection": rest, "lora_mlp": rest, "lora_head": head}
    return {"lora_r": 3, "lora_alpha": 7, "lora_dropout": 0.05} | flags | others


SUBSETS = ("q", "k", "v", "qk", "qv", "kv", "qkv")
LORAS: dict[str, dict[str, Any]] = {parts: hyper(parts) for parts in SUBSETS} | {
    "rest": hyper("", rest=True),
    "qv and rest": hyper("qv", rest=True),
    "everything": hyper("qkv", rest=True, head=True),
}


def loras_of(family: str) -> list[str]:
    if family == "llama_grouped":
        return list(LORAS)
    if family in ("llama_full", "llama_single"):
        return ["qv", "qkv"]
    # LitGPT's merge adds the head's update to the embedding as well where a checkpoint shares them.
    return ["qv and rest"] if FAMILIES[family].tied else ["everything"]


@dataclass(frozen=True)
class Zoo:
    """root / family / hf: transformers' files; lit-VERSION: LitGPT's; lora-VERSION-NAME: trained and merged."""

    root: Path

    def hf(self, family: str) -> Path:
        return self.root / family / "hf"

    def lit(self, family: str, version: str) -> Path:
        return self.root / family / f"lit-{version}"

    def lora(self, family: str, version: str, name: str) -> Path:
        return self.root / family / f"lora-{version}-{name.replace(' ', '-')}"

    def logits(self, family: str, kind: str) -> Any:
        import torch

        return torch.load(self.root / family / f"logits-{kind}.pt")


class LitGPT:
    """A version of LitGPT in a process of its own, which takes tasks of oracle.py from the first one on."""

    def __init__(self, version: str, scratch: Path) -> None:
        self._version, self._scratch = version, scratch
        self._log = scratch / f"litgpt-{version}.log"
        self._process: subprocess.Popen[str] | None = None

    def _started(self) -> subprocess.Popen[str]:
        packages = [Path(sys.prefix) / f"litgpt-{self._version}", Path(sys.prefix) / "litgpt-common"]
        assert all(path.is_dir() for path in packages), f"{packages[0]} is missing: see .litgpt in the Makefile"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, packages)),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",  # LitGPT of 2024 pickles with protocol 5
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        with self._log.open("w") as log:
            return subprocess.Popen(
                [sys.executable, str(ORACLE)],
                env=environment,
                cwd=self._scratch,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self, tasks: Sequence[dict[str, Any]]) -> None:
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None
        print(json.dumps(tasks), file=self._process.stdin, flush=True)

    def finish(self) -> None:
        """Waits for what was started last."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "done\n", self._log.read_text()[-3000:]

    def run(self, tasks: Sequence[dict[str, Any]]) -> None:
        self.start(tasks)
        self.finish()

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=60)


@pytest.fixture(scope="session")
def litgpt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LitGPT]]:
    """By version."""
    scratch = tmp_path_factory.mktemp("litgpt")
    processes = {version: LitGPT(version, scratch) for version in (TODAY, BEFORE)}
    yield processes
    for process in processes.values():
        process.close()


@pytest.fixture(scope="session")
def zoo(litgpt: dict[str, LitGPT], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Made once, by whichever process of a test run comes first."""
    import torch

    torch.set_num_threads(1)  # models this small only make threads wait for each other
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    zoo = Zoo(shared / "zoo")
    done = shared / "zoo-is-complete"
    with (shared / "zoo-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            zoo.root.mkdir()
            for name, family in FAMILIES.items():
                save_model(zoo, name, family)
            for version, process in litgpt.items():
                process.start(tasks_of(zoo, version))
            for process in litgpt.values():
                process.finish()
            done.touch()
    return zoo


def save_model(zoo: Zoo, name: str, family: Family) -> None:
    import torch
    import transformers
    from safetensors.torch import load_file

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = getattr(transformers, family.hf_class)(**family.hf_config())
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for parameter_name, parameter in model.named_parameters():
        is_norm = "norm" in parameter_name or "ln_" in parameter_name or parameter_name.endswith("bias")
        torch.nn.init.normal_(parameter, *((0.5, 0.2) if is_norm else (0.0, 0.08)))
    model.save_pretrained(zoo.hf(name))
    with torch.no_grad():
        torch.save(model(torch.tensor(TOKENS)).logits, zoo.root / name / "logits-hf.pt")
    tensors = load_file(zoo.hf(name) / "model.safetensors")
    if "falcon" in name:  # the real ones store their head, and LitGPT expects it
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"]
    for version in versions_of(name):
        folder = zoo.lit(name, version)
        folder.mkdir()
        torch.save(tensors, folder / "pytorch_model.bin")
        shutil.copy(zoo.hf(name) / "config.json", folder)


def versions_of(family: str) -> list[str]:
    return [TODAY, BEFORE] if FAMILIES[family].in_0_5_3 else [TODAY]


def lit_families(version: str) -> list[str]:
    return [name for name in FAMILIES if version in versions_of(name)]


def tasks_of(zoo: Zoo, version: str) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = []
    for seed, name in enumerate(lit_families(version)):
        base = str(zoo.lit(name, version))
        tasks.append({"do": "from_hf", "config": FAMILIES[name].lit_config(), "directory": base})
        output = str(zoo.root / name / f"logits-{version}.pt")
        if name != "gemma2" or version == TODAY:  # LitGPT 0.5.3 says otherwise which layers have windows
            tasks.append({"do": "logits", "directory": base, "output": output, "tokens": TOKENS})
        for lora in loras_of(name):
            folder = str(zoo.lora(name, version, lora))
            tasks.append({"do": "train_lora", "directory": base, "output": folder, "seed": seed, "hyper": LORAS[lora]})
            tasks.append({"do": "merge", "directory": folder, "base": base})
    return tasks
