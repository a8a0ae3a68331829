"""Made-up tokenizers stand for pre-tokenizers that llama.cpp has no name for."""

from __future__ import annotations

from typing import Any

import pytest

from fastconv.vocab import bpe


class NamedByDigest(dict[str, str]):
    def get(self, digest: str, default: Any = None) -> str:
        return digest


@pytest.fixture
def digests_as_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest of the check text's ids stands where the pre-tokenizer's name would, as in the recorded files."""
    known = bpe._known_pre_tokenizers()
    monkeypatch.setattr(
        bpe, "_known_pre_tokenizers", lambda: {"check_text": known["check_text"], "names": NamedByDigest()}
    )
