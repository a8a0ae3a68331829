"""Writes PyTorch zip checkpoints without torch: stored members, and a pickle that says what is in them.

Knows zip records and the pickle of a state dict; docs/formats/torch-zip.md has the bytes. torch.load reads the result
with weights_only=True, memory-mapped too.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from fastconv.checkpoint.tensor_globals import STORAGES
from fastconv.errors import PlanError
from fastconv.layout.laid_out import Checksum, CopiedBytes, LaidOut, PlacedTensor
from fastconv.layout.weights_file import ArrayEntry
from fastconv.types import TYPES

_ALIGNMENT = 64  # of every member's data; source: torch, caffe2/serialize/inline_container.h (kFieldAlignment)
_ABSENT16, _ABSENT32 = 0xFFFF, 0xFFFFFFFF
_PADDING_ID = 0x4246  # "FB": what torch calls its padding

_STORAGES = {dtype: name for name, dtype in STORAGES.items() if dtype in TYPES}

# Source of the records: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.14 to 4.3.16.
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_VERSION, _VERSION64 = 20, 45
_CRC_IN_LOCAL, _CRC_IN_CENTRAL = 14, 16
_DATE = (1 << 5) | 1  # 1 January 1980: the same input gives the same bytes


def torch_zip_file(entries: Sequence[ArrayEntry], stem: str, name: str = "") -> LaidOut:
    """The state dict of these tensors, in their order; entries of one `canonical` share a storage.

    stem: the folder inside the archive. Raises PlanError for a type that torch had no storage for in 2023.
    """
    storages: dict[str, tuple[str, ArrayEntry]] = {}
    for entry in entries:
        storages.setdefault(entry.canonical, (str(len(storages)), entry))
    archive = _Archive(stem)
    archive.add("data.pkl", _state_dict_pickle(entries, {key: index for key, (index, _) in storages.items()}))
    archive.add("byteorder", b"little")
    placed: list[PlacedTensor] = []
    copied: list[CopiedBytes] = []
    for index, entry in storages.values():
        at = archive.reserve(f"data/{index}", entry.size)
        if entry.is_copied:
            copied.append(entry.copied_to(at))
        else:
            placed.append(PlacedTensor(entry.name, entry.canonical, entry.shape, entry.type, at, entry.size))
    archive.add("version", b"3\n")
    archive.finish()
    return LaidOut(
        tuple(archive.chunks),
        tuple(placed),
        archive.end,
        name=name,
        copied=tuple(copied),
        checksums=archive.checksums(),
    )


class _Archive:
    """A zip archive under construction: records at their offsets, room left for the data of the engine."""

    def __init__(self, stem: str) -> None:
        self.chunks: list[tuple[int, bytes]] = []
        self.end = 0
        self._stem = stem
        self._members: list[tuple[bytes, int, int, int]] = []  # name, CRC-32, size, offset of the local header
        self._reserved: list[tuple[int, int, int]] = []  # index of the member, offset and size of its data
        self._crc_places: list[int] = []

    def add(self, name: str, data: bytes) -> None:
        self.chunks.append((self._open(name, len(data), zlib.crc32(data)), data))

    def reserve(self, name: str, size: int) -> int:
        """The offset of `size` bytes that come later."""
        offset = self._open(name, size, 0)
        self._reserved.append((len(self._members) - 1, offset, size))
        return offset

    def _open(self, name: str, size: int, crc: int) -> int:
        label = f"{self._stem}/{name}".encode()
        large = struct.pack("<2H2Q", 1, 16, size, size) if size >= _ABSENT32 else b""
        begin = self.end
        unpadded = begin + _LOCAL.size + len(label) + len(large) + 4
        padding = -unpadded % _ALIGNMENT
        extra = large + struct.pack("<2H", _PADDING_ID, padding) + b"Z" * padding
        stated = _ABSENT32 if large else size
        version = _VERSION64 if large else _VERSION
        # Flag 0x800: the name is UTF-8.
        fields = (version, 0x800, 0, 0, _DATE, crc, stated, stated, len(label), len(extra))
        self.chunks.append((begin, _LOCAL.pack(b"PK\x03\x04", *fields) + label + extra))
        self._members.append((label, crc, size, begin))
        self.end = unpadded + padding + size
        return unpadded + padding

    def finish(self) -> None:
        """The central directory and the records that end the file."""
        start = self.end
        records = []
        at = start
        for label, crc, size, header in self._members:
            wide = [n for n in (size, size) if size >= _ABSENT32] + [header] * (header >= _ABSENT32)
            extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
            version = _VERSION64 if wide else _VERSION
            stated, offset = min(size, _ABSENT32), min(header, _ABSENT32)
            fields = (
                version,
                version,
                0x800,
                0,
                0,
                _DATE,
                crc,
                stated,
                stated,
                len(label),
                len(extra),
                0,
                0,
                0,
                0,
                offset,
            )
            records.append(_CENTRAL.pack(b"PK\x01\x02", *fields) + label + extra)
            self._crc_places.append(at + _CRC_IN_CENTRAL)
            at += len(records[-1])
        size, count = at - start, len(self._members)
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, _VERSION64, _VERSION64, 0, 0, count, count, size, start)
        locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
        count16 = min(count, _ABSENT16)
        sizes = (min(size, _ABSENT32), min(start, _ABSENT32), 0)
        end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count16, count16, *sizes)
        directory = b"".join((*records, end64, locator, end))
        self.chunks.append((start, directory))
        self.end = start + len(directory)

    def checksums(self) -> tuple[Checksum, ...]:
        return tuple(
            Checksum(offset, size, (self._members[index][3] + _CRC_IN_LOCAL, self._crc_places[index]))
            for index, offset, size in self._reserved
        )


def _state_dict_pickle(entries: Sequence[ArrayEntry], keys: dict[str, str]) -> bytes:
    """A dictionary of torch tensors in the opcodes of protocol 2. Source: Python's pickletools; torch/_utils.py."""
    parts = [b"\x80\x02}("]
    for entry in entries:
        if entry.type not in _STORAGES:
            raise PlanError("has a type that PyTorch files do not hold", tensor=entry.name, found=entry.type)
        strides = [1] * len(entry.shape)
        for axis in range(len(entry.shape) - 2, -1, -1):
            strides[axis] = strides[axis + 1] * max(entry.shape[axis + 1], 1)
        count = entry.shape[0] * strides[0] if entry.shape else 1
        storage = b"".join(
            (b"(", _text("storage"), f"ctorch\n{_STORAGES[entry.type]}\n".encode(), _text(keys[entry.canonical]))
        )
        parts += (
            _text(entry.name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            storage,
            _text("cpu"),
            _integer(count),
            b"tQ",
            _integer(0),
            _tuple(entry.shape),
            _tuple(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        )
    return b"".join((*parts, b"u."))


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + len(encoded).to_bytes(4, "little") + encoded


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(digits),)) + digits


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
