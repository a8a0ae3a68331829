"""A real llama.cpp loads the files and cuts text into the same tokens as the tokenizers' own libraries."""

from __future__ import annotations

import json
import urllib.request
from importlib import resources
from pathlib import Path

import pytest

from fastconv import convert
from tests.gguf.cases import LLAMA3_ROPE
from tests.models import LlamaShape, write_hf

pytestmark = pytest.mark.clients
TEXTS = ("Hello world", "  two  spaces, tabs\tand\nnewlines", "Übergröße 3.14 日本語 🦙", "<s>[INST] x [/INST]", "")


def tokens_by_llama_cpp(path: Path, texts: tuple[str, ...]) -> list[list[int]]:
    xllamacpp = pytest.importorskip("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 64
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    found = []
    for text in texts:
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize",
            json.dumps({"content": text, "add_special": False, "parse_special": False}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found.append(json.load(answer)["tokens"])
    return found


def test_sentencepiece_vocabulary(tmp_path: Path) -> None:
    import sentencepiece

    model = resources.files("mistral_common").joinpath("data/tokenizer.model.v1").read_bytes()
    shape = LlamaShape(n_vocab=32000, n_embd=64, n_ff=64, n_layer=1)
    write_hf(tmp_path / "model", shape, tokenizer=False)
    (tmp_path / "model" / "tokenizer.model").write_bytes(model)
    convert(tmp_path / "model", tmp_path / "out.gguf", outtype="q8_0")
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokens_by_llama_cpp(tmp_path / "out.gguf", TEXTS) == [processor.encode(text) for text in TEXTS]


def test_byte_level_vocabulary_and_llama3_rope(tmp_path: Path) -> None:
    import sys

    from gguf import GGUFReader
    from tokenizers import Tokenizer

    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    import smollm2  # type: ignore[import-not-found]

    try:
        reader = GGUFReader(smollm2.find_gguf())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    tokenizer, config = smollm2.read_tokenizer(reader)
    shape = LlamaShape(n_vocab=49152, n_embd=64, n_ff=64, n_layer=1, tied=True, extra={"rope_scaling": LLAMA3_ROPE})
    write_hf(tmp_path / "model", shape, tokenizer=False)
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    convert(tmp_path / "model", tmp_path / "out.gguf", outtype="q4_0")
    reference = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    expected = [reference.encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert tokens_by_llama_cpp(tmp_path / "out.gguf", TEXTS) == expected
