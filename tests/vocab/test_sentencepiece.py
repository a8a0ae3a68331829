"""tokenizer.model through our batched reading, against the processor asked piece by piece; and files that are wrong."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from fastconv.errors import UsageError, VocabularyError
from fastconv.vocab.load import load_vocabulary
from fastconv.vocab.vocabulary import TokenType
from tests.models import spm_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer.model of 320 pieces."""
    (tmp_path / "tokenizer.model").write_bytes(spm_model(320))
    return tmp_path


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_real_vocabulary_piece_by_piece(tmp_path: Path) -> None:
    model = resources.files("mistral_common").joinpath("data/tokenizer.model.v1").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model)
    vocabulary = load_vocabulary(tmp_path, 32000)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert (vocabulary.kind, vocabulary.pre, vocabulary.n_base) == ("spm", "default", 32000)
    assert len(vocabulary.tokens) == len(vocabulary.scores) == len(vocabulary.types) == processor.vocab_size()
    for token_id in range(0, 32000, 7):
        assert vocabulary.tokens[token_id].decode() == processor.id_to_piece(token_id)
        assert vocabulary.scores[token_id] == processor.get_score(token_id)
    assert vocabulary.types[:3] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    assert vocabulary.types[3:259] == [TokenType.BYTE] * 256
    assert set(vocabulary.types[259:]) == {TokenType.NORMAL}


def test_vocabulary_is_padded_to_the_embedding(folder: Path) -> None:
    vocabulary = load_vocabulary(folder, 330)
    assert vocabulary.n_base == 320
    assert vocabulary.tokens[320:] == [b"[PAD%d]" % token_id for token_id in range(320, 330)]
    assert vocabulary.scores[320:] == [-10000.0] * 10
    assert vocabulary.types[320:] == [TokenType.UNUSED] * 10


def test_added_tokens_of_both_files(folder: Path) -> None:
    write(folder, "added_tokens.json", {"<a>": 320, "<b>": 321})
    decoder = {
        "321": {"content": "▁b", "special": False},
        "322": {"content": "<|c|>"},
        "5": {"content": "d", "special": True},
    }
    write(folder, "tokenizer_config.json", {"added_tokens_decoder": decoder})
    vocabulary = load_vocabulary(folder, 323)
    assert vocabulary.tokens[320:] == [b"<a>", b" b", b"<|c|>"]
    assert vocabulary.types[320:] == [TokenType.USER_DEFINED, TokenType.USER_DEFINED, TokenType.CONTROL]
    assert (vocabulary.tokens[5], vocabulary.types[5], vocabulary.scores[5]) == (b"d", TokenType.CONTROL, -1000.0)


def test_special_ids_from_the_models_configuration(folder: Path) -> None:
    write(folder, "config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "unk_token_id": 4000})
    vocabulary = load_vocabulary(folder, 320)
    assert vocabulary.special_ids == {"bos": 1, "eos": 2}
    assert load_vocabulary(folder, 320, config={"bos_token_id": 7}).special_ids == {"bos": 7}


def test_tokenizer_of_the_folder_above(folder: Path) -> None:
    (folder / "7B").mkdir()
    assert len(load_vocabulary(folder / "7B", 320).tokens) == 320
    assert len(load_vocabulary(folder / "tokenizer.model", 320).tokens) == 320


def test_code_llamas_infill_ids(folder: Path) -> None:
    vocabulary = load_vocabulary(folder, 32016)
    assert vocabulary.infill_ids == {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}
    write(folder, "config.json", {"middle_token_id": 5})
    assert load_vocabulary(folder, 32016).infill_ids["middle"] == 5


def test_missing_folder_and_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="does not exist"):
        load_vocabulary(tmp_path / "none", 320)
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(VocabularyError, match=r"no tokenizer here.*tokenizer\.model or tokenizer\.json.*--vocab-dir"):
        load_vocabulary(tmp_path / "a" / "b", 320)


def test_kind_that_is_not_there(folder: Path) -> None:
    with pytest.raises(VocabularyError, match=r"no tokenizer here: expected tokenizer\.json"):
        load_vocabulary(folder, 320, "bpe")
    with pytest.raises(UsageError, match="unknown vocabulary type"):
        load_vocabulary(folder, 320, "wordpiece")


def test_vocabulary_larger_than_the_embedding(folder: Path) -> None:
    with pytest.raises(
        VocabularyError, match="larger than the model's embedding: found 320 pieces, expected at most 319"
    ):
        load_vocabulary(folder, 319)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"not a model"])
def test_model_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"tokenizer\.model: is not a SentencePiece model"):
        load_vocabulary(tmp_path, 320)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("added_tokens.json", "{", r"added_tokens\.json: is not valid JSON"),
        ("added_tokens.json", "[" * 100000, r"added_tokens\.json: is not valid JSON"),
        ("added_tokens.json", "[]", "wrong JSON value: found list, expected an object"),
        ("added_tokens.json", {"<a>": 330}, "'<a>' has an id that the model's embedding does not have: found 330"),
        ("added_tokens.json", {"<a>": "7"}, "'<a>' has an id that is not an integer: found '7', expected 0 to"),
        ("added_tokens.json", {"<a>": 7.0}, "'<a>' has an id that is not an integer: found 7.0"),
        ("added_tokens.json", {"<a>": True}, "'<a>' has an id that is not an integer: found True"),
        ("added_tokens.json", {"<a>": -1}, "found -1, expected 0 to 329"),
        ("tokenizer_config.json", "nonsense", r"tokenizer_config\.json: is not valid JSON"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, None),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "found list, expected an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": "x"}}, "no content for id 7"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"7": {"content": 1}}}, "no content for id 7"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"x": {"content": "y"}}},
            "'y' has an id that is not an integer: found 'x'",
        ),
        ("tokenizer_config.json", {"added_tokens_decoder": {"331": {"content": "y"}}}, "found 331"),
        ("tokenizer.json", "{]", r"tokenizer\.json: is not valid JSON"),
        ("config.json", {"bos_token_id": -5}, "bos token has an impossible id: found -5"),
    ],
)
def test_files_that_are_wrong(name: str, content: Any, message: str | None, folder: Path) -> None:
    write(folder, name, content)
    if message is None:
        assert len(load_vocabulary(folder, 330).tokens) == 330
        return
    with pytest.raises(VocabularyError, match=message) as raised:
        load_vocabulary(folder, 330)
    assert "\n" not in str(raised.value)


def test_text_that_is_not_utf8(folder: Path) -> None:
    (folder / "added_tokens.json").write_bytes(b'{"\xff": 1}')
    with pytest.raises(VocabularyError, match=r"added_tokens\.json: is not UTF-8 text"):
        load_vocabulary(folder, 330)
