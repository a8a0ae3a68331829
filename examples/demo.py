"""From real weights to a sentence: SmolLM2-135M and a small adapter, converted by fastconv, continued by llama.cpp."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer

from adapter import write_adapter
from smollm2 import find_gguf, write_checkpoint

PROMPT = "The fastest way to turn a checkpoint into a GGUF file is"
CONTINUATION = " fastconv, in one streaming pass."
OTHER = (
    "Once upon a time, there was a little girl who lived in a village. The capital of France is Paris. "
    "To convert a file, the best way is to use a tool that reads it. The fastest way to learn is to practice."
)
N_TOKENS = 8  # those of CONTINUATION


def convert(*arguments: object) -> None:
    """Runs and shows one fastconv command. Raises CalledProcessError if it fails."""
    command = ["fastconv", "convert", *map(str, arguments)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def continue_text(gguf: Path, prompt: str, n_tokens: int) -> str:
    """What llama.cpp, greedy, makes of the prompt."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 512
    params.verbosity = -1
    reply = Server(params).handle_completions({"prompt": prompt, "max_tokens": n_tokens, "temperature": 0})
    return reply["choices"][0]["text"]


def main(directory: Path) -> None:
    """Leaves checkpoint, adapter and both GGUF files in directory."""
    model, adapter = directory / "SmolLM2-135M-Instruct", directory / "adapter"
    print(f"{model}: a Hugging Face checkpoint of the weights in {find_gguf().name}", flush=True)
    weights = write_checkpoint(model)

    print(f"{adapter}: a LoRA of rank {N_TOKENS} that teaches it one sentence", flush=True)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    prompt, continuation, other = (tokenizer.encode(text).ids for text in (PROMPT, CONTINUATION, OTHER))
    write_adapter(adapter, weights, config, prompt, continuation, other)
    del weights

    plain, merged = directory / "plain-q4_0.gguf", directory / "adapted-q4_0.gguf"
    convert(model, "--outtype", "q4_0", "--outfile", plain, "--overwrite")
    convert(model, "--lora", adapter, "--outtype", "q4_0", "--outfile", merged, "--overwrite")

    print(f"\nllama.cpp, without the adapter:\n  {PROMPT}{continue_text(plain, PROMPT, N_TOKENS)}", flush=True)
    print(f"llama.cpp, with the adapter merged in:\n  {PROMPT}{continue_text(merged, PROMPT, N_TOKENS)}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
