"""A tokenizer.json of byte pairs without what given texts cannot meet.

`tokenizers` takes 100 to 200 MB for a vocabulary of Llama 3's size, nearly all of it for tokens and merges that it is
never asked about. A text becomes tokens that are parts of its pieces, by merges whose results are such tokens; merges
count by their order alone. Source: the BPE model of `tokenizers` 0.22 (models/bpe/word.rs, merge_all).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import Any

# Of all pieces. The text that llama.cpp checks has half as many as a single piece.
_MAX_SUBSTRINGS = 1 << 20
# What a pre-tokenizer may put before the first piece of a text that an added token parts.
_WORD_STARTS = ("", "\u0120", "\u2581")
# Begins the names of tokens that are only counted: tokens that are added are numbered by how many there are.
_COUNTED = "\0"


def join_merges(model: dict[str, Any]) -> None:
    """Pairs as "left right", where no part has a space: a third of the memory. Malformed merges stay as they are."""
    merges = model.get("merges")
    if isinstance(merges, list) and all(_is_pair(merge) and " " not in merge[0] + merge[1] for merge in merges):
        for i, (left, right) in enumerate(merges):
            merges[i] = f"{left} {right}"


def pruned(found: Mapping[str, Any], texts: Iterable[str], names: Collection[str]) -> str | None:
    """JSON that encodes `texts` as `found` does and gives `names`, and tokens that are added, the same ids.

    found: of a tokenizer.json with a BPE model. None where it is malformed or it is not known what may be left out.
    Raises Exception as `tokenizers` does.
    """
    model = found["model"]
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        return None
    if any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")):
        return None
    pieces = _pieces(found, texts)
    longest = max(map(len, vocab), default=0)
    if sum(len(piece) * min(len(piece), longest) for piece in pieces) > _MAX_SUBSTRINGS:
        return None
    if any(_COUNTED in text for text in (*pieces, *names)):
        return None
    parts = (start + part for part in ("", *_substrings(pieces, longest)) for start in _WORD_STARTS)
    met = {text for text in parts if text in vocab}
    needed = _needed(merges, vocab, met)
    if needed is None:
        return None
    kept = met.union(names, (f"<0x{byte:02X}>" for byte in range(256)), [str(model.get("unk_token"))])
    small = {text if text in kept else f"{_COUNTED}{n}": token_id for n, (text, token_id) in enumerate(vocab.items())}
    return json.dumps({**found, "model": {**model, "vocab": small, "merges": needed}})


def _pieces(found: Mapping[str, Any], texts: Iterable[str]) -> set[str]:
    """What the model is given of the texts, word by word."""
    from tokenizers import Tokenizer

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    bare = Tokenizer.from_str(json.dumps({**found, "added_tokens": [], "model": empty}))
    pieces: set[str] = set()
    for text in texts:
        if bare.normalizer is not None:
            text = bare.normalizer.normalize_str(text)
        if bare.pre_tokenizer is None:
            pieces.add(text)
        else:
            pieces.update(piece for piece, _ in bare.pre_tokenizer.pre_tokenize_str(text))
    return pieces


def _substrings(pieces: Iterable[str], longest: int) -> Iterator[str]:
    for piece in pieces:
        for begin in range(len(piece)):
            for end in range(begin + 1, min(len(piece), begin + longest) + 1):
                yield piece[begin:end]


def _needed(merges: list[Any], vocab: Container[str], met: Container[str]) -> list[Any] | None:
    """Merges that make one of `met`; None where one is malformed or about tokens that there are not."""
    needed = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not _is_pair(parts) or parts[0] not in vocab or parts[1] not in vocab:
            return None
        whole = parts[0] + parts[1]
        if whole in met:
            needed.append(merge)
        elif whole not in vocab:
            return None
    return needed


def _is_pair(merge: Any) -> bool:
    return isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str)
