"""What a GGUF file says wrongly and its copy takes over is told, in the words of `fastconv verify`; the bytes stay."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

import fastconv
from fastconv.verification.verify import verify
from tests.models import LlamaShape, write_hf
from tests.verification.gguf_parts import GgufParts, f32, u32

N_TOKENS = 320  # of the embedding too
TOLD = "; carried over: programs may refuse the output"


def numbers(kind: int, code: str, values: list[float]) -> bytes:
    return struct.pack(f"<IIQ{len(values)}{code}", 9, kind, len(values), *values)


def texts(count: int) -> bytes:
    return struct.pack("<IIQ", 9, 8, count) + b"".join(struct.pack("<Q3s", 3, b"%03d" % i) for i in range(count))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    write_hf(folder / "m", LlamaShape(n_vocab=N_TOKENS))
    fastconv.convert(folder / "m", folder / "m.gguf", outtype="f16")
    return folder / "m.gguf"


@pytest.fixture
def broken(sound: Path, tmp_path: Path) -> Callable[[dict[str, bytes | None]], Path]:
    """(key -> as stored, None: without) -> the sound file with these."""

    def write(changes: dict[str, bytes | None]) -> Path:
        file = GgufParts.read(sound)
        for key, raw in changes.items():
            file.keys.pop(key, None)
            if raw is not None:
                file.keys[key] = raw
        return file.write(tmp_path / "broken.gguf")

    return write


BROKEN = [
    (
        "tokenizer.ggml.tokens",
        texts(N_TOKENS - 1),
        "tensor token_embd.weight: has not one row for each token: found 320 rows, expected 319 tokens",
    ),
    ("tokenizer.ggml.scores", numbers(6, "f", [0.0] * 7), "tokenizer.ggml.scores is not as long as the vocabulary"),
    ("tokenizer.ggml.token_type", numbers(5, "i", [1] * 7), "tokenizer.ggml.token_type is not as long"),
    ("tokenizer.ggml.token_type", numbers(5, "i", [1] * 319 + [7]), "the type of token 319 is unknown: found 7"),
    (
        "tokenizer.ggml.token_type",
        numbers(6, "f", [1] * 320),
        "token_type is of the wrong type: found an array of float32",
    ),
    (
        "tokenizer.ggml.scores",
        numbers(6, "f", [0.0] * 319 + [np.nan]),
        "the score of token 319 is not finite: found nan",
    ),
    ("tokenizer.ggml.scores", numbers(5, "i", [0] * 320), "scores is of the wrong type: found an array of int32"),
    ("tokenizer.ggml.bos_token_id", u32(N_TOKENS), "bos_token_id is outside the vocabulary: found 320, expected less"),
    ("tokenizer.ggml.eos_token_id", struct.pack("<Ii", 5, 2), "eos_token_id is of the wrong type: found int32"),
    ("llama.context_length", struct.pack("<IQ", 10, 64), "llama.context_length is of the wrong type: found uint64"),
    ("llama.attention.layer_norm_rms_epsilon", f32(0), "layer_norm_rms_epsilon is no positive number: found 0"),
    ("llama.vocab_size", u32(32000), "vocab_size is not the number of tokens: found 32000, expected 320"),
    ("llama.embedding_length", u32(128), "token_embd.weight: has another width than embedding_length: found 64"),
    ("llama.block_count", u32(3), "its layers are not those of block_count: blk.2 is missing"),
]


@pytest.mark.parametrize(("key", "raw", "told"), BROKEN, ids=[f"{key}: {told[-30:]}" for key, _, told in BROKEN])
def test_what_is_carried_over_is_told(
    key: str, raw: bytes, told: str, broken: Callable[..., Path], tmp_path: Path
) -> None:
    source = broken({key: raw})
    result = fastconv.convert(source, tmp_path / "out.gguf", outtype="q8_0")
    notes = [note for note in result.notes if note.endswith(TOLD)]
    assert any(note.startswith(f"{source}: ") and told in note for note in notes), result.notes
    # The output holds what the source says, and is found wrong for the same.
    assert GgufParts.read(tmp_path / "out.gguf").keys[key] == raw
    found = {str(finding) for finding in verify(tmp_path / "out.gguf").findings}
    assert {note.removeprefix(f"{source}: ").removesuffix(TOLD) for note in notes} <= found


@pytest.mark.parametrize("options", [{}, {"outtype": "q4_0"}, {"vocab_only": True}], ids=str)
def test_nothing_is_told_of_a_sound_file(options: dict[str, object], sound: Path, tmp_path: Path) -> None:
    result = fastconv.convert(sound, tmp_path / "out.gguf", **options)  # type: ignore[arg-type]
    assert not any("carried over" in note for note in result.notes)


def test_what_the_output_does_not_inherit_is_not_told(broken: Callable[..., Path], tmp_path: Path) -> None:
    """Keys that options set anew, and those that every quantization sets."""
    changes = {
        "llama.context_length": u32(0),
        "llama.rope.freq_base": f32(-1),
        "llama.attention.layer_norm_rms_epsilon": f32(np.inf),
        "general.file_type": struct.pack("<IB", 7, 1),
        "general.quantization_version": struct.pack("<If", 6, 2),
    }
    source = broken(changes)
    told = fastconv.convert(source, tmp_path / "told.gguf", outtype="q8_0").notes
    assert len([note for note in told if note.endswith(TOLD)]) == 3
    result = fastconv.convert(source, tmp_path / "out.gguf", outtype="q8_0", n_ctx=64, rope_base=1e4, rms_eps=1e-5)
    assert not any("carried over" in note for note in result.notes)
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["llama.context_length"].contents() == 64


def test_a_vocabulary_alone_is_held_against_itself(broken: Callable[..., Path], tmp_path: Path) -> None:
    source = broken({"tokenizer.ggml.tokens": texts(7)})
    notes = fastconv.convert(source, tmp_path / "out.gguf", vocab_only=True).notes
    assert any(
        "tokenizer.ggml.scores is not as long as the vocabulary: found 320, expected 7" in note for note in notes
    )
    assert not any("token_embd" in note for note in notes)


def test_many_broken_rules_are_counted(broken: Callable[..., Path], tmp_path: Path) -> None:
    source = broken({f"tokenizer.ggml.x{n}_token_id": u32(N_TOKENS + n) for n in range(1000)})
    notes = [n for n in fastconv.convert(source, tmp_path / "out.gguf").notes if "carried over" in n]
    assert len(notes) == 9
    assert notes[-1] == f"{source}: breaks 992 more rules, carried over too: fastconv verify names them"


def test_scalars_where_matrices_are_expected(sound: Path, tmp_path: Path) -> None:
    file = GgufParts.read(sound)
    file.part("token_embd.weight").dims = ()
    source = file.write(tmp_path / "scalar.gguf")
    assert not verify(source).is_fine
