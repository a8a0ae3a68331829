"""Who converts, and by which commands. Each contender turns a case into the commands of one whole run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One conversion: an output type, with or without the adapter."""

    type: str
    lora: bool = False

    @property
    def name(self) -> str:
        return f"{self.type} + LoRA" if self.lora else self.type

    @property
    def in_numpy(self) -> bool:
        """Whether the NumPy path is of use: its search for K-quants' scales takes minutes, and it knows no IQ types."""
        return self.type not in SEARCHED


SEARCHED = ("q6_k", "q4_k_m", "iq4_xs")
CASES = [
    Case("q4_0"),
    Case("q4_1"),
    Case("q8_0"),
    Case("q6_k"),
    Case("q4_k_m"),
    Case("iq4_xs"),
    Case("f16"),
    Case("bf16"),
    Case("q4_0", lora=True),
]


@dataclass(frozen=True)
class Bench:
    """Where things are.

    python: the interpreter with fastconv, also of the NumPy path. llama_cpp: its source tree and the folder of its
    built tools, if it takes part.
    """

    model: Path
    adapter: Path
    scratch: Path
    python: Path
    threads: int
    llama_cpp: tuple[Path, Path] | None = None

    def fastconv_commands(self, case: Case, outfile: Path, *options: str) -> list[list[str]]:
        command = [self.python, "-m", "fastconv", "convert", self.model, "--outtype", case.type, "--outfile", outfile]
        command += ["--concurrency", self.threads, "--quiet", *options]
        return [_strings(command + (["--lora", self.adapter] if case.lora else []))]

    def floor_commands(self, output_bytes: int, outfile: Path, *, sync: bool) -> list[list[str]]:
        source = self.model / "model.safetensors"
        return [_strings([self.scratch / "floor", self.threads, source, outfile, output_bytes, int(sync)])]

    def numpy_commands(self, case: Case, outfile: Path, *options: str) -> list[list[str]]:
        command = [self.python, HERE / "numpy_path.py", self.model, outfile, case.type, *options]
        return [_strings(command + (["--lora", self.adapter] if case.lora else []))]

    def llama_cpp_commands(self, case: Case, outfile: Path) -> list[list[str]]:
        """convert_hf_to_gguf.py, then what the case needs of llama-export-lora and llama-quantize."""
        if self.llama_cpp is None:
            raise ValueError("llama.cpp does not take part")
        source, tools = self.llama_cpp
        script = [sys.executable, source / "convert_hf_to_gguf.py", self.model]
        if case.type in ("f16", "bf16") and not case.lora:
            return [_strings([*script, "--outtype", case.type, "--outfile", outfile])]
        whole = self.scratch / "llama_cpp-bf16.gguf"
        commands = [[*script, "--outtype", "bf16", "--outfile", whole]]
        if case.lora:
            lora, merged = self.scratch / "llama_cpp-lora.gguf", self.scratch / "llama_cpp-merged.gguf"
            convert_lora = [sys.executable, source / "convert_lora_to_gguf.py", "--base", self.model]
            commands += [[*convert_lora, "--outfile", lora, self.adapter]]
            export = [tools / "llama-export-lora", "-m", whole, "--lora", lora, "-o", merged]
            commands += [[*export, "-t", self.threads]]
            whole = merged
        commands += [[tools / "llama-quantize", whole, outfile, case.type.upper(), self.threads]]
        return [_strings(command) for command in commands]


def build_floor(scratch: Path) -> None:
    """Compiles floor.cpp with the machine's C++ compiler."""
    command = ["c++", "-O2", "-std=c++17", "-pthread", HERE / "floor.cpp", "-o", scratch / "floor"]
    subprocess.run(_strings(command), check=True)


def _strings(command: list) -> list[str]:
    return [str(part) for part in command]
