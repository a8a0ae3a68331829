"""The native reader of tokenizer.model against the sentencepiece library: the same pieces, the same models refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import _native
from fastconv.errors import VocabularyError
from fastconv.vocab.load import load_vocabulary
from tests.models import spm_model

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = b"\x18\x02"
FALLBACK = b"\x98\x02\x01"
UNK = ("<unk>", 0.0, UNKNOWN)


def field(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def piece(text: str | bytes, score: float, kind: int) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return field(1, field(1, data) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))


def model(*pieces: tuple[str | bytes, float, int], trainer: bytes = b"") -> bytes:
    return b"".join(piece(*p) for p in pieces) + field(2, BPE + trainer)


BYTES = tuple((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256))


def truth(data: bytes) -> tuple[list[bytes], list[float], list[int]] | None:
    """What the library reads, None where it does not load the model."""
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
        ids = range(processor.vocab_size())
        texts = [processor.IdToPiece(i).encode() for i in ids]
    except (RuntimeError, UnicodeDecodeError):
        return None
    kinds = [
        UNKNOWN
        if processor.IsUnknown(i)
        else CONTROL
        if processor.IsControl(i)
        else UNUSED
        if processor.IsUnused(i)
        else BYTE
        if processor.IsByte(i)
        else NORMAL
        for i in ids
    ]
    return texts, [processor.GetScore(i) for i in ids], kinds


def ours(data: bytes) -> tuple[list[bytes], list[float], list[int]] | None:
    try:
        texts, scores, kinds = _native.sentencepieces(data)
        "".join(text.decode() for text in texts)
    except ValueError:
        return None
    return texts, scores, [NORMAL if kind == USER_DEFINED else kind for kind in kinds]


texts = st.one_of(
    st.text(max_size=4).filter(lambda text: "\0" not in text and text.isprintable()),
    st.sampled_from(["<unk>", "<s>", "a", "b", "▁a", "<0x41>", "<0x4a>", "<0x100>", "<0xZZ>"]),
)
scores = st.floats(width=32, allow_nan=False)
some_pieces = st.lists(st.tuples(texts, scores, st.integers(0, 8)), max_size=6)


@settings(max_examples=300, deadline=None)
@given(some_pieces, st.booleans(), st.booleans())
def test_the_library_reads_and_refuses_the_same(
    pieces: list[tuple[str, float, int]], has_unknown: bool, has_bytes: bool
) -> None:
    all_pieces = [*([UNK] if has_unknown else []), *(BYTES if has_bytes else ()), *pieces]
    data = model(*all_pieces, trainer=FALLBACK if has_bytes else b"")
    assert ours(data) == truth(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_the_library_reads_of_a_damaged_file_is_read(data: st.DataObject) -> None:
    """The other way does not hold: the library looks at what cuts text too, of which no output says anything."""
    damaged = bytearray(spm_model(300))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 4600))  # the pieces, of which the file mostly consists
        damaged[at] = data.draw(st.integers(0, 255))
    wanted, found = truth(bytes(damaged)), ours(bytes(damaged))
    assert wanted is None or found is None or found == wanted
    assert wanted is None or found is not None or any(byte & 7 in (3, 4) for byte in damaged)


def test_fields_that_are_not_known_are_passed_over() -> None:
    unknown = b"\xc8\x0c\x05" + b"\xd1\x0c" + bytes(8) + b"\xda\x0c\x02ab" + b"\xdd\x0c" + bytes(4)
    inside = field(1, field(1, b"a") + unknown)
    data = unknown + model(UNK) + inside
    assert ours(data) == truth(data) == ([b"<unk>", b"a"], [0.0, 0.0], [UNKNOWN, NORMAL])


def test_the_last_of_several_values_counts() -> None:
    data = model(UNK) + field(1, field(1, b"a") + field(1, b"b") + b"\x18\x03\x18\x01")
    assert ours(data) == truth(data) == ([b"<unk>", b"b"], [0.0, 0.0], [UNKNOWN, NORMAL])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 pieces for the unknown"),
        (model(("a", 0, NORMAL)), "0 pieces for the unknown"),
        (model(UNK, ("u", 0, UNKNOWN)), "2 pieces for the unknown"),
        (model(UNK, ("", 0, NORMAL)), "an empty piece"),
        (model(UNK, ("a", 0, NORMAL), ("a", 1, UNUSED)), "a piece twice"),
        (model(UNK, ("a", 0, CONTROL), ("a", 1, NORMAL)), "a piece twice"),
        (model(UNK, *BYTES), "a byte piece that stands for none"),
        (model(UNK, *BYTES, ("x", 0, BYTE), trainer=FALLBACK), "a byte piece that stands for none"),
        (model(UNK, ("<0x0a>", 0, BYTE), trainer=FALLBACK), "a byte piece that stands for none"),
        (model(UNK, *BYTES[1:], trainer=FALLBACK), "pieces of 255 bytes of 256"),
        (model(UNK)[:-1], "a field that goes beyond the end"),
        (model(UNK)[:1], "a field that goes beyond the end"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01" + model(UNK), "a field that goes beyond the end"),
        (b"\x08" + b"\x80" * 10 + b"\0" + model(UNK), "an integer that does not end"),
        (b"\x02\x00" + model(UNK), "a field without a number"),
        (b"\x80\x80\x80\x80\x10\x00" + model(UNK), "a field without a number"),
        (b"\x0b\x0c" + model(UNK), "a field of an unknown kind"),
        (model(UNK) + field(1, b"\x0a\x02a"), "a field that goes beyond the end"),
        (piece("a", 0, NORMAL) * ((1 << 20) + 1), "more than 1048576 pieces"),
    ],
)
def test_each_rule(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    message = rf"tokenizer\.model: is not a SentencePiece model: found {found}; download or copy it again"
    with pytest.raises(VocabularyError, match=message):
        load_vocabulary(tmp_path, 320)


def test_every_prefix_is_refused() -> None:
    """But for those that end with a field: what then lacks is the last pieces or how text is cut."""
    data = model(UNK, ("a", 0, NORMAL), ("b", 0, NORMAL))
    ends = [len(model(UNK, *more)) - 4 for more in ((), (("a", 0, NORMAL),), (("a", 0, NORMAL), ("b", 0, NORMAL)))]
    assert [n for n in range(len(data)) if ours(data[:n]) is not None] == ends


@pytest.mark.parametrize("text", [b"\xff", b"\xe2\x96", b"\xed\xa0\x80", b"\xc0\x80"])
def test_text_that_is_not_utf8(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(model(UNK, (text, 0, NORMAL), (b"\x81", 0, NORMAL)))
    with pytest.raises(VocabularyError, match="holds a piece that is not UTF-8 text"):
        load_vocabulary(tmp_path, 320)
