"""The rebuilt checkpoint is the model it was made of: llama.cpp finds the same ids and probabilities in the GGUF."""

from __future__ import annotations

import json
import math
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

TEXTS = [
    "Hello world",
    "It's 12345 o'clock, we'll see 3.14159!",
    "  leading   spaces\n\n\ttabs and \r\n returns",
    "Grüße aus München – ça va? Ελληνικά 日本語 🤗 русский",
    "def f(x):\n    return x**2  # comment",
    "<|im_start|>user\nHi<|im_end|>\n",
    "naïve ½ ٣ ① x\u00a0y\u3000z",
]
PROMPTS = ["The capital of France is", "Once upon a time, there was a little", "Water boils at"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import smollm2

    directory = tmp_path_factory.mktemp("models") / "SmolLM2-135M-Instruct"
    smollm2.write_checkpoint(directory)
    return directory


@pytest.fixture(scope="module")
def server():
    import xllamacpp

    import smollm2

    params = xllamacpp.CommonParams()
    params.model.path = str(smollm2.find_gguf())
    params.n_ctx = 512
    params.verbosity = -1
    return xllamacpp.Server(params)


@pytest.mark.clients
def test_token_ids_equal_llama_cpps(checkpoint: Path, server) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    for text in TEXTS:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", data=body, headers={"Content-Type": "application/json"}
        )
        theirs = json.load(urllib.request.urlopen(request))["tokens"]
        assert tokenizer.encode(text, add_special_tokens=False) == theirs, text


@pytest.mark.clients
def test_probabilities_equal_llama_cpps(checkpoint: Path, server) -> None:
    """transformers in float32 on the bfloat16 checkpoint, against llama.cpp on the 4-bit original."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for prompt in PROMPTS:
        reply = server.handle_completions({"prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 5})
        theirs = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1]
        ours = torch.log_softmax(logits, dim=-1)
        assert int(ours.argmax()) == theirs[0]["id"], prompt
        # llama.cpp rounds activations to 8 bits before it multiplies.
        assert all(math.isclose(float(ours[t["id"]]), t["logprob"], abs_tol=0.3) for t in theirs), (prompt, theirs)


@pytest.mark.clients
def test_forward_pass_of_the_adapter_equals_transformers(checkpoint: Path) -> None:
    """The NumPy forward pass that the example adapter is made with."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapter import forward
    from smollm2 import find_gguf, read_weights

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    ids = AutoTokenizer.from_pretrained(checkpoint).encode(TEXTS[1])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    weights = read_weights(GGUFReader(find_gguf()))
    model.load_state_dict({name: torch.from_numpy(np.array(x)) for name, x in weights.items()}, strict=False)
    seen = []
    model.model.layers[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        model(torch.tensor([ids]))
    theirs = (seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]).reshape(len(ids), -1).numpy()
    _, ours = forward(weights, config, ids)
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
