"""Other people's tokenizer libraries on files from strangers: their own ways to fail end in one line too."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

from fastconv.errors import VocabularyError

# Of text, over all steps of a tokenizer. The largest vocabularies come to a few hundred thousand.
MAX_TEXT_BYTES = 64 << 20
_REPLACING = threading.Lock()


@contextlib.contextmanager
def guarded(path: str) -> Iterator[None]:
    """Where a library may read the tokenizer file `path`, or use what it read there.

    Raises VocabularyError for what `tokenizers` raises besides Python's own errors: Rust panics, which no
    `except Exception` stops. Panics and sentencepiece's log would stand on descriptor 2 beside the one line, so it
    leads nowhere meanwhile, for the whole process.
    """
    with _silent():
        try:
            yield
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # pyo3 makes the class anew in every library
                raise
            raise VocabularyError("is not a tokenizer that `tokenizers` can use", file=path, found=str(error)) from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with _REPLACING, contextlib.ExitStack() as stack:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield
            return
        stack.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        stack.callback(os.dup2, kept, 2)
        os.dup2(nowhere, 2)
        yield


def check_growth(path: str, tokenizer: dict[str, Any], n_bytes: int) -> None:
    """Refuses steps that may make gigabytes of a line of text.

    tokenizer: the JSON of tokenizer.json. n_bytes: of all text that is to go through it, or more. Raises
    VocabularyError.
    """
    for step in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        n_bytes *= _growth(tokenizer.get(step))
        if n_bytes > MAX_TEXT_BYTES:
            raise VocabularyError(
                f"has a {step} that may make text too long",
                file=path,
                found=f"up to {n_bytes} bytes",
                expected=f"at most {MAX_TEXT_BYTES}",
            )


def _growth(step: Any) -> int:
    """How many times longer text may leave a step of tokenizer.json, or all the steps of a sequence."""
    growth = 1
    left = [step]
    while left and growth <= MAX_TEXT_BYTES:
        part = left.pop()
        if isinstance(part, dict):
            growth *= _part_growth(part)
            if part.get("type") == "Sequence":
                left += [inner for parts in part.values() if isinstance(parts, list) for inner in parts]
    return growth


def _part_growth(part: dict[str, Any]) -> int:
    kind = part.get("type")
    if kind == "Sequence":
        return 1
    if kind == "ByteLevel":
        return 2
    if kind == "TemplateProcessing":
        return max([1, *(len(pieces) for pieces in part.values() if isinstance(pieces, list))])
    added = sum(_length(part.get(key)) for key in ("content", "prepend"))
    pattern = part.get("pattern")
    replaced = _length(pattern.get("String")) if isinstance(pattern, dict) else 0
    return max(1, -(-added // replaced)) if kind == "Replace" and replaced else 1 + added


def _length(text: Any) -> int:
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0
