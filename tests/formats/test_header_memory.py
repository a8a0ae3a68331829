"""Headers whose few bytes each would become objects of hundreds: refused before they do, or kept as bytes.

Each is opened in a process of its own, whose peak resident memory is looked at.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from fastconv.checkpoint.imatrix import read_imatrix
from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.open import read_file
from fastconv.checkpoint.yaml_file import read_yaml_object
from fastconv.cli.inspect_command import as_text
from fastconv.errors import CheckpointError
from fastconv.inspection import inspect
from tests.formats.format_builders import gguf_record, gguf_string, gguf_value, torch_zip_bytes

pytestmark = pytest.mark.slow  # gigabytes pass through memory

SIZE = 60 << 20
PICKLE_SIZE = (8 << 20) - 4


def repeated(begin: bytes, unit: bytes, end: bytes, size: int = SIZE) -> bytes:
    return begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end


def gguf(values: list[bytes], n_tensors: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(values)) + b"".join(values)


def items(item_type: int, item: bytes, count: int, size: int = SIZE) -> list[bytes]:
    array = struct.pack("<IQ", item_type, count) + item * count
    return [gguf_value(f"k{i}", 9, array) for i in range(size // len(array))]


def texts(text: str, count: int) -> list[bytes]:
    return [gguf_value(f"k{i}", 8, gguf_string(text)) for i in range(count)]


def many_tensors(n_tensors: int, values: list[bytes]) -> bytes:
    """Of no elements, with the longest names and the most dimensions."""
    records = b"".join(gguf_record(f"{i:064}", [0, 1, 1, 1], 0, 0) for i in range(n_tensors))
    return gguf(values, n_tensors) + records + bytes(32)


JSON: dict[str, Callable[[], bytes]] = {
    "lists": lambda: repeated(b'{"a":[', b"[],", b"0]}"),
    "objects": lambda: repeated(b'{"a":[', b"{},", b"0]}"),
    "pairs": lambda: repeated(b'{"a":[', b'{"":0},', b"0]}"),
    "numbers": lambda: repeated(b'{"a":[', b"0e0,", b"0]}"),
    "wide text": lambda: repeated('{"a":"\U0001f600'.encode(), b"a", b'"}'),
    "depth": lambda: repeated(b'{"a":', b"[", b""),
    "digits": lambda: repeated(b'{"a":', b"9", b"}"),
}
OTHERS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "gguf bytes": (lambda: gguf(items(0, b"\1", 4 << 20)), "header is too long", 64),
    "gguf floats": (lambda: gguf(items(6, b"\1\2\3\4", 4 << 20)), "header is too long", 64),
    "gguf strings": (lambda: gguf(items(8, gguf_string("ab"), 1 << 20)), "header is too long", 64),
    "gguf arrays": (lambda: gguf(items(9, struct.pack("<IQ", 0, 0), 4 << 20)), "header is too long", 64),
    "gguf long texts": (lambda: gguf(texts("a" * (12 << 20), 5)), "header is too long", 64),
    "gguf wide texts": (lambda: gguf(texts("a" * (1 << 20) + "\U0001f600", 60)), "more memory than any model", 64),
    "gguf wide long text": (lambda: gguf(texts("a" * (12 << 20) + "\U0001f600", 2)), "more memory than any model", 64),
    "gguf wide keys": (
        lambda: gguf([gguf_value(f"{i:04}\U0001f600" + "a" * 65_000, 0, b"a") for i in range(900)]),
        "more memory than any model",
        64,
    ),
    "gguf tensors beside arrays": (
        lambda: many_tensors(1 << 16, items(0, b"\1", 4 << 20, 24 << 20)),
        "more memory than any model",
        64,
    ),
    "gguf keys": (lambda: gguf([gguf_value("key", 0, b"a")] * 2_000_000), "holds too many key-values", 64),
    "gguf tensors": (lambda: gguf([], 2_000_000) + bytes(SIZE), "holds more tensors than", 64),
    "ggjt tokens": (
        lambda: b"lmgg" + struct.pack("<7I", 7_000_000, 32, 256, 4, 1, 8, 0) + bytes(4 * 7_000_000),
        "holds too many tokens",
        64,
    ),
    "pickled lists": (lambda: torch_zip_bytes(b"\x80\2" + b"]" * PICKLE_SIZE), "more objects than a model", 64),
    "pickled dictionaries": (lambda: torch_zip_bytes(b"\x80\2" + b"}" * PICKLE_SIZE), "more objects than a model", 64),
    "pickled sets": (lambda: torch_zip_bytes(b"\x80\2" + b"\x8f" * PICKLE_SIZE), "more objects than a model", 64),
    "pickle's memo": (lambda: torch_zip_bytes(b"\x80\2}" + b"\x94" * PICKLE_SIZE), "more objects than a model", 64),
    "pickled numbers": (lambda: torch_zip_bytes(repeated(b"\x80\2", b"M\1\1", b"", PICKLE_SIZE)), "more objects", 64),
    "pickled strings": (lambda: torch_zip_bytes(repeated(b"\x80\2", b"\x8c\2ab", b"", PICKLE_SIZE)), "more obje", 64),
    "pickled calls": (
        lambda: torch_zip_bytes(repeated(b"\x80\2ccollections\nOrderedDict\nq\0", b"h\0)R", b"", PICKLE_SIZE)),
        "more objects than a model",
        64,
    ),
}
# As large as headers may be, and nothing wrong with them.
FULL = (32 << 20) - (1 << 16)
OPENED: dict[str, Callable[[], bytes]] = {
    "bytes": lambda: gguf(items(0, b"\x81", (4 << 20) - 64, FULL)),
    "booleans": lambda: gguf(items(7, b"\1", (4 << 20) - 64, FULL)),
    "floats": lambda: gguf(items(6, b"\1\2\3\4", 4 << 18, FULL)),
    "empty strings": lambda: gguf(items(8, gguf_string(""), FULL // 8 - 64, FULL)),
    "short strings": lambda: gguf(items(8, gguf_string("ab"), FULL // 10 - 64, FULL)),
    "a string for each array": lambda: gguf(items(8, gguf_string("\U0001f600" * 500), 1, 16_000 * 2048)),
    "empty arrays": lambda: gguf(items(9, struct.pack("<IQ", 0, 0), FULL // 12 - 64, FULL)),
    "nested arrays": lambda: gguf(items(9, struct.pack("<IQIQB", 9, 1, 0, 1, 7), FULL // 25 - 64, FULL)),
    "texts": lambda: gguf(texts("a" * (10 << 20), 3)),
    "wide text": lambda: gguf(texts("a" * (9 << 20) + "\U0001f600", 1)),
    "keys": lambda: gguf([gguf_value(f"{i:08}" + "a" * 1000, 0, b"a") for i in range(1 << 14)]),
    "wide keys": lambda: gguf([gguf_value(f"{i:04}\U0001f600" + "a" * 65_000, 0, b"a") for i in range(190)]),
    "tensors": lambda: many_tensors(1 << 16, []),
    "tensors beside arrays": lambda: many_tensors(40_000, items(0, b"\1", 4 << 20, 24 << 20)),
}
IMATRIX_ENTRY = struct.pack("<i3siif", 3, b"abc", 1, 1, 1.0)


@pytest.mark.parametrize("case", JSON)
def test_safetensors(tmp_path: Path, case: str) -> None:
    header = JSON[case]()
    check(tmp_path, struct.pack("<Q", len(header)) + header, read_file, "is too large to be read", 64)


@pytest.mark.parametrize("case", JSON)
def test_json(tmp_path: Path, case: str) -> None:
    check(tmp_path, JSON[case](), read_json_object, "is too large to be read", 64)


@pytest.mark.parametrize("case", OTHERS)
def test_binary(tmp_path: Path, case: str) -> None:
    make, message, megabytes = OTHERS[case]
    check(tmp_path, make(), read_file, message, megabytes)


@pytest.mark.parametrize("case", OPENED)
def test_gguf(tmp_path: Path, case: str) -> None:
    check(tmp_path, OPENED[case](), inspected, "opened", 64)


def inspected(path: str) -> None:
    """As `fastconv inspect` does."""
    as_text(inspect(path))


def test_imatrix(tmp_path: Path) -> None:
    raw = struct.pack("<i", 3_000_000) + IMATRIX_ENTRY * 3_000_000
    check(tmp_path, raw, read_imatrix, "holds more tensors than", 64)


YAML = {
    "aliases": "a0: &a0 [k, k]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 15)),
    "merged maps": "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30)),
    "a list in itself": "a: &a [*a]\n",
    "hexadecimal": "a: 0x" + "f" * 100_000,
    "base 60": "a: 1" + ":1" * 50_000,
    "digits": "a: " + "9" * 100_000,
    "depth": "a: " + "[" * 100_000,
    "size": "a: 1\n" * 100_000,
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(tmp_path: Path, case: str) -> None:
    message = "is too large" if case == "size" else "is not valid YAML"
    check(tmp_path, YAML[case].encode(), read_yaml_object, message, 64)


def check(folder: Path, raw: bytes, read: Callable[[str], object], message: str, megabytes: int) -> None:
    """In a child of this process: the interpreter and what it has imported are there already and are not counted."""
    file = folder / "hostile"
    file.write_bytes(raw)
    del raw
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        report = "nothing was reported"
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = memory("VmRSS")
            try:
                read(str(file))
                report = f"{max(memory('VmHWM') - before, 0)} opened"
            except CheckpointError as error:
                report = f"{max(memory('VmHWM') - before, 0)} {error}"
            except Exception as error:  # noqa: BLE001
                report = repr(error)
        finally:
            os.write(writing, report.encode()[:4000])
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        report = pipe.read().decode()
    os.waitpid(child, 0)
    file.unlink()
    kilobytes, _, line = report.partition(" ")
    assert message in line, report
    assert "\n" not in line
    assert int(kilobytes) <= (megabytes + 4) << 10, report


def memory(field: str) -> int:
    """Kilobytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0])
