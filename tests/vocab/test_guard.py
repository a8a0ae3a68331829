"""tokenizer.json files on which the `tokenizers` library panics or would make endless text."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastconv.errors import VocabularyError
from fastconv.vocab.guard import guarded
from fastconv.vocab.load import load_vocabulary
from tests.engine.test_run import subprocess_environment
from tests.fuzz.seeds import TOKENIZER_STEPS
from tests.gguf.cases import byte_level
from tests.models import LlamaShape, write_hf

_TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
PANICS: dict[str, dict[str, Any]] = {
    "a prefix longer than what it precedes": {"model": {"continuing_subword_prefix": "abcdefgh"}},
    "a prefix that ends inside a character": {"model": {"continuing_subword_prefix": "é"}},
    "a table of characters that is none": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a table that points outside": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAAA"}},
    "nothing to prepend": {"normalizer": {"type": "Prepend", "prepend": ""}},
    "a template's token that it lacks": {
        "post_processor": _TEMPLATE | {"single": [{"SpecialToken": {"id": "x", "type_id": 0}}]}
    },
    "a template of a second text": {
        "post_processor": _TEMPLATE | {"single": [{"Sequence": {"id": "B", "type_id": 0}}]}
    },
    "pieces of no characters": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}
_LONGER = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 1000}
GROWTHS: dict[str, dict[str, Any]] = {
    "replaced again and again": {"normalizer": {"type": "Sequence", "normalizers": [_LONGER] * 4}},
    "sequences in a sequence": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [_LONGER] * 2}] * 2}
    },
    "more characters for one": {"decoder": _LONGER | {"pattern": {"String": "ab"}, "content": "x" * 1_000_000}},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 40}},
    "the same text a million times": {
        "post_processor": _TEMPLATE | {"single": [{"Sequence": {"id": "A", "type_id": 0}}] * 300_000}
    },
    "long beginnings": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 999}] * 3}
    },
}


def write(folder: Path, steps: dict[str, Any]) -> Path:
    byte_level(folder)
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text("utf-8"))
    for name, step in steps.items():
        found[name] = found[name] | step if name == "model" else step
    path.write_text(json.dumps(found), encoding="utf-8")
    return folder


@pytest.mark.parametrize("case", PANICS)
def test_a_panic_is_an_error(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(VocabularyError, match=r"tokenizer\.json: is not a tokenizer that `tokenizers` can use: found"):
        load_vocabulary(write(tmp_path, PANICS[case]), 320)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("case", GROWTHS)
def test_text_that_would_grow_is_refused(tmp_path: Path, case: str) -> None:
    with pytest.raises(VocabularyError, match=r"that may make text too long: found up to \d+ bytes, expected"):
        load_vocabulary(write(tmp_path, GROWTHS[case]), 320)


@pytest.mark.parametrize("name", TOKENIZER_STEPS)
@pytest.mark.usefixtures("digests_as_names")
def test_steps_of_real_tokenizers_pass(tmp_path: Path, name: str) -> None:
    assert len(load_vocabulary(write(tmp_path, TOKENIZER_STEPS[name]), 320).tokens) == 320


def test_the_command_prints_one_line(tmp_path: Path) -> None:
    write_hf(tmp_path, LlamaShape(n_vocab=320), tokenizer=False)
    write(tmp_path, PANICS["pieces of no characters"])
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", "convert", str(tmp_path)],
        env=subprocess_environment() | {"RUST_BACKTRACE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("fastconv: error: ")
    assert done.stderr.count("\n") == 1
    assert "chunk size must be non-zero" in done.stderr


def test_other_errors_pass_and_the_descriptor_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with guarded("x"):
            os.write(2, b"not to be seen")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    os.write(2, b"seen")
    assert capfd.readouterr().err == "seen"


def test_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    monkeypatch.setattr(os, "dup", refuse)
    with guarded("x"):
        ran = True
    assert ran
