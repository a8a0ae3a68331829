"""Encoded values against the gguf package's own writer and reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from gguf import GGUFValueType
from hypothesis import given
from hypothesis import strategies as st

from fastconv.layout.gguf_values import encode_string, encode_value

TEXT = st.text(max_size=20)
SCALARS = st.one_of(
    st.tuples(st.just(GGUFValueType.UINT32), st.integers(0, 2**32 - 1)),
    st.tuples(st.just(GGUFValueType.INT32), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just(GGUFValueType.UINT64), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(GGUFValueType.FLOAT32), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just(GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(GGUFValueType.STRING), TEXT),
)
ARRAYS = st.tuples(
    st.just(GGUFValueType.ARRAY),
    st.one_of(
        st.lists(TEXT, min_size=1),
        st.lists(st.binary(max_size=9), min_size=1),
        st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1),
        st.lists(st.booleans(), min_size=1),
    ),
)


@given(st.one_of(SCALARS, ARRAYS))
def test_encoding_equals_the_gguf_writers(typed: tuple[GGUFValueType, Any]) -> None:
    value_type, value = typed
    writer = gguf.GGUFWriter(path=None, arch="llama")
    assert encode_value(value_type, value) == writer._pack_val(value, value_type, add_vtype=True)


@given(texts=st.lists(TEXT, min_size=1, max_size=50))
def test_reader_gets_strings_back(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    key_values = encode_string("a.key") + encode_value(GGUFValueType.ARRAY, texts)
    path: Path = tmp_path_factory.mktemp("gguf") / "strings.gguf"
    path.write_bytes(
        b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + (1).to_bytes(8, "little") + key_values
    )
    assert gguf.GGUFReader(path).fields["a.key"].contents() == texts


@pytest.mark.parametrize(
    ("value_type", "value"),
    [
        (GGUFValueType.STRING, 3),
        (GGUFValueType.UINT32, -1),
        (GGUFValueType.UINT32, "1"),
        (GGUFValueType.INT32, 2.5),
        (GGUFValueType.FLOAT32, "x"),
        (GGUFValueType.ARRAY, ["a", 1]),
        (GGUFValueType.ARRAY, [{}]),
    ],
)
def test_value_of_another_type_is_refused(value_type: GGUFValueType, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_value(value_type, value)
