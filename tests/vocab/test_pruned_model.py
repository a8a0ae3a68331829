"""A tokenizer.json with less in it encodes what it was made for as `tokenizers` does with all of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from fastconv.vocab.pruned_model import join_merges, pruned
from tests.models import LlamaShape, write_hf

CORPUS = [
    "the tenth tree on the other shore is the oldest of them all",
    "don't count 3,141,592 or 27 twice; \n\n\tinstead   look at them",
    "größer als Ēā, наконец: 你好世界 🚀🚀 <s>mixed</s>",
]
NORMALIZERS = [None, normalizers.NFC(), normalizers.Lowercase(), normalizers.Prepend("\u2581")]
SPLITTERS = [
    None,
    pre_tokenizers.ByteLevel(add_prefix_space=True),
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    pre_tokenizers.Metaspace(),
    pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]),
    pre_tokenizers.Whitespace(),
]


def trained(normalizer: Any, splitter: Any, *, byte_fallback: bool = False) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *bytes_], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


TRAINED = [
    trained(normalizer, splitter, byte_fallback=fallback)
    for normalizer, splitter, fallback in itertools.product(NORMALIZERS, SPLITTERS, [False, True])
]


def whole(found: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(found))


@given(
    st.sampled_from(TRAINED),
    st.lists(st.sampled_from([*" \n\tatehinors,3.1é你🚀", "the", " other", "1,592", "<s>"]), max_size=20).map("".join),
    st.sampled_from(["the", "<s>", "tree", "\u2581the", "new one"]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_encodes_alike(found: dict[str, Any], text: str, added: str, ignores_merges: bool) -> None:
    found = {**found, "model": {**found["model"], "ignore_merges": ignores_merges}}
    small = pruned(found, [text], [added])
    assert small is not None
    left, right = whole(found), Tokenizer.from_str(small)
    assert right.get_vocab_size() == left.get_vocab_size()
    for tokenizer in (left, right):
        tokenizer.add_tokens([AddedToken(added), AddedToken("<|one more|>")])
    assert right.encode(text).ids == left.encode(text).ids
    for name in (added, "<|one more|>"):
        assert right.token_to_id(name) == left.token_to_id(name)


def test_little_is_left() -> None:
    found = trained(None, pre_tokenizers.ByteLevel())
    small = json.loads(pruned(found, ["the tree"], []) or "")["model"]
    assert len(small["vocab"]) == len(found["model"]["vocab"])
    assert len(small["merges"]) < 20 < len(found["model"]["merges"])


@pytest.mark.parametrize(
    "merge", ["a", "a b c", "zz nothing", "t z", 5, ["a"], ["a", 5], ["nothing", "a"], {"a": "b"}], ids=repr
)
def test_malformed_merges_are_left_to_their_reader(merge: Any) -> None:
    found = trained(None, None)
    found["model"]["merges"].append(merge)
    assert pruned(found, ["a"], []) is None


@pytest.mark.parametrize(
    "change",
    [{"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}, {"vocab": [["a", 0]]}, {"merges": None}],
    ids=str,
)
def test_what_is_not_understood_stays_whole(change: dict[str, Any]) -> None:
    found = trained(None, None)
    assert pruned({**found, "model": {**found["model"], **change}}, ["a"], []) is None


def test_texts_that_hold_names_of_counted_tokens_leave_it_whole() -> None:
    assert pruned(trained(None, None), ["a\0b"], []) is None


def test_pairs_are_joined_unless_a_part_has_a_space() -> None:
    model: dict[str, Any] = {"merges": [["a", "b"], ["ab", "c"]]}
    join_merges(model)
    assert model["merges"] == ["a b", "ab c"]
    for merges in ([["a", "b"], ["a ", "b"]], [["a", "b"], ["a"]], [["a", "b"], "a b"], None):
        model = {"merges": merges}
        join_merges(model)
        assert model["merges"] == merges


# As large as Llama 3's, in the form that its files have had since 2024.
N_VOCAB, N_MERGES = 128_256, 280_000

CONVERT = """
import re, sys
from fastconv.vocab import bpe
class Any(dict):
    get = lambda self, key, default=None: "default"
known = bpe._known_pre_tokenizers()
bpe._known_pre_tokenizers = lambda: {"check_text": known["check_text"], "names": Any()}
from fastconv.cli import main
code = main(["convert", sys.argv[1], "--outtype", "q8_0", "-o", sys.argv[2], "--quiet"])
print(code, int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) << 10)
"""


@pytest.mark.memory
@pytest.mark.parametrize("as_pairs", [True, False])
def test_a_large_vocabulary_stays_within_the_bound_of_memory(tmp_path: Path, as_pairs: bool) -> None:
    model = tmp_path / "model"
    write_hf(model, LlamaShape(n_vocab=N_VOCAB, n_embd=64, n_ff=64, n_head=2, n_head_kv=2), tokenizer=False)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys(letters)
    merges: dict[tuple[str, str], None] = {}
    # Each token of four letters and more comes of several merges, as in vocabularies that were trained.
    for n in (2, 3, 4, 5):
        for parts in itertools.islice(itertools.product(letters[60:90], repeat=n), 40_000):
            text = "".join(parts)
            tokens[text] = None
            merges |= {
                (text[:cut], text[cut:]): None for cut in range(1, n) if {text[:cut], text[cut:]} <= tokens.keys()
            }
    vocab = {text: index for index, text in enumerate(itertools.islice(tokens, N_VOCAB - 256))}
    pairs = [pair for pair in merges if "".join(pair) in vocab and {*pair} <= vocab.keys()][:N_MERGES]
    assert len(vocab) > 100_000
    assert len(pairs) > 150_000
    tokenizer = json.loads(Tokenizer(models.BPE()).to_str())
    tokenizer["pre_tokenizer"] = json.loads(pre_tokenizers.ByteLevel(add_prefix_space=False).__getstate__())
    tokenizer["model"] |= {"vocab": vocab, "merges": pairs if as_pairs else [" ".join(pair) for pair in pairs]}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=2), encoding="utf-8")
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    command = [sys.executable, "-c", CONVERT, str(model), str(tmp_path / "out.gguf")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 0, done.stderr
    assert peak < 200e6
