"""Reads PyTorch zip checkpoints (.bin, .pth, .pt) without torch: the archive's directory, then its pickle.

Knows zip records and where they lie, nothing of models; see docs/formats/torch-zip.md. What the pickle may say is
decided in tensor_pickle.py.
"""

from __future__ import annotations

import struct
import zlib

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import check_tensor_count
from fastconv.checkpoint.storage import FileStorage
from fastconv.checkpoint.tensor_globals import Record
from fastconv.checkpoint.tensor_pickle import read_tensor_pickle
from fastconv.errors import CheckpointError
from fastconv.record import record

MAX_PICKLE_BYTES = 8 << 20  # some 40,000 tensors
MAX_DIRECTORY_BYTES = 16 << 20
_MAX_OTHERS = 16  # members that hold no tensor

# Source: APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end).
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENCRYPTED, _DEFERRED_SIZES = 0x1 | 0x40 | 0x2000, 0x8
_ABSENT16, _ABSENT32 = 0xFFFF, 0xFFFFFFFF


@record(eq=True)
class _Member:
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    size: int
    header_offset: int


def read_torch_zip(storage: FileStorage) -> dict[str, LazyTensor]:
    """The tensors of the archive's state dict, in its order.

    Raises CheckpointError where the archive is damaged, or its pickle says more than tensors need.
    """
    members, directory_offset = _read_directory(storage)
    records = _locate(storage, members, directory_offset)
    by_name = {member.name: member for member in members}
    pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(
            "archive holds no single data.pkl",
            file=storage.path,
            found=pickles or "none",
            expected="<name>/data.pkl",
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "constants.pkl" in records:
        raise CheckpointError(
            "is a TorchScript program, not a checkpoint",
            file=storage.path,
            fix="save its state_dict() with torch.save",
        )

    def small_record(name: str, limit: int) -> bytes:
        record, member = records[name], by_name[name]
        if record.size > limit:
            raise CheckpointError(
                f"{name} is too large",
                file=storage.path,
                found=f"{record.size} bytes",
                expected=f"at most {limit}",
            )
        data = storage.read(record.offset, record.size)
        if zlib.crc32(data) != member.crc:
            raise CheckpointError(f"{name} is damaged (its CRC-32 disagrees)", file=storage.path)
        return data

    if prefix + "byteorder" in records:
        order = small_record(prefix + "byteorder", 16)
        if order != b"little":
            raise CheckpointError(
                "byte order is not supported",
                file=storage.path,
                found=repr(order),
                expected="little",
            )
    data_prefix = prefix + "data/"
    data = {name[len(data_prefix) :]: record for name, record in records.items() if name.startswith(data_prefix)}
    return read_tensor_pickle(small_record(pickles[0], MAX_PICKLE_BYTES), data, storage)


def _read_directory(storage: FileStorage) -> tuple[list[_Member], int]:
    """The central directory's members, and the offset at which it begins."""
    n_members, size, offset = _find_directory(storage)
    if offset + size > storage.size:
        raise _damaged(
            storage,
            "directory lies outside the file",
            offset + size,
            f"at most {storage.size}",
        )
    check_tensor_count(storage.path, n_members - _MAX_OTHERS)
    if size > MAX_DIRECTORY_BYTES:
        raise _damaged(storage, "directory is too large", f"{size} bytes", f"at most {MAX_DIRECTORY_BYTES}")
    if n_members * _CENTRAL.size > size:
        raise _damaged(
            storage,
            "directory is too small for its members",
            f"{size} bytes",
            f"{n_members} members",
        )
    raw = storage.read(offset, size)
    members: list[_Member] = []
    seen: set[str] = set()
    at = 0
    for _ in range(n_members):
        if at + _CENTRAL.size > size:
            raise _damaged(storage, "directory ends within a member")
        fields = _CENTRAL.unpack_from(raw, at)
        (
            signature,
            _,
            _,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            full,
            n_name,
            n_extra,
            n_comment,
            disk,
        ) = fields[:14]
        header_offset = fields[16]
        begin = at + _CENTRAL.size
        at = begin + n_name + n_extra + n_comment
        if signature != b"PK\x01\x02" or at > size:
            raise _damaged(storage, "directory holds a malformed member")
        raw_name = raw[begin : begin + n_name]
        try:
            name = raw_name.decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(storage, "a member's name is not UTF-8", repr(raw_name[:80])) from None
        if _ABSENT32 in (packed, full, header_offset) or disk == _ABSENT16:
            extra = raw[begin + n_name : begin + n_name + n_extra]
            full, packed, header_offset, disk = _zip64(storage, name, extra, full, packed, header_offset, disk)
        if name in seen:
            raise _damaged(storage, f"member {name} appears twice")
        if flags & _ENCRYPTED:
            raise _damaged(storage, f"member {name} is encrypted")
        if method != 0 or packed != full:
            raise CheckpointError(
                f"archive member {name} is compressed",
                file=storage.path,
                fix="load and save it again with torch.save, which stores plainly",
            )
        if disk != 0:
            raise _damaged(storage, f"member {name} lies on another volume")
        seen.add(name)
        members.append(_Member(name, raw_name, flags, method, crc, full, header_offset))
    if at != size:
        raise _damaged(storage, "directory has bytes after its last member", f"{size} bytes", at)
    return members, offset


def _find_directory(storage: FileStorage) -> tuple[int, int, int]:
    """Number of members, bytes and offset of the central directory. The archive has no comment: torch writes none."""
    at = storage.size - _END.size
    tail = storage.read(at, _END.size) if at >= 0 else b""
    if tail[:4] != b"PK\x05\x06":
        raise CheckpointError(
            "archive is truncated (no directory at its end)",
            file=storage.path,
            fix="download or copy it again",
        )
    _, disk, first_disk, n_here, n_members, size, offset, n_comment = _END.unpack(tail)
    if n_comment:
        raise _damaged(storage, "a comment is announced but the file ends before it")
    several = disk or first_disk or n_here != n_members
    if several and _ABSENT16 not in (disk, first_disk, n_here, n_members):
        raise _damaged(storage, "is one volume of several")
    end = at
    locator_at = at - _LOCATOR64.size
    locator = storage.read(locator_at, _LOCATOR64.size) if locator_at >= 0 else b""
    if locator[:4] == b"PK\x06\x07":
        _, disk, end64_offset, n_disks = _LOCATOR64.unpack(locator)
        if disk or n_disks > 1 or end64_offset + _END64.size > locator_at:
            raise _damaged(storage, "zip64 locator is malformed")
        signature, record_size, _, _, disk, first_disk, here64, members64, size64, offset64 = _END64.unpack(
            storage.read(end64_offset, _END64.size)
        )
        if signature != b"PK\x06\x06" or disk or first_disk or here64 != members64:
            raise _damaged(storage, "zip64 end of directory is malformed")
        if record_size + 12 + end64_offset != locator_at:
            raise _damaged(
                storage,
                "zip64 end of directory is malformed",
                record_size,
                locator_at - end64_offset - 12,
            )
        for old, new, absent in (
            (n_members, members64, _ABSENT16),
            (size, size64, _ABSENT32),
            (offset, offset64, _ABSENT32),
        ):
            if old not in (new, absent):
                raise _damaged(storage, "the two ends of the directory disagree", old, new)
        n_members, size, offset, end = members64, size64, offset64, end64_offset
    elif _ABSENT32 in (size, offset) or n_members == _ABSENT16:
        raise _damaged(storage, "zip64 locator is missing")
    if offset + size != end:
        raise _damaged(storage, "directory does not end where it should", offset + size, end)
    return n_members, size, offset


def _zip64(
    storage: FileStorage,
    name: str,
    extra: bytes,
    full: int,
    packed: int,
    header_offset: int,
    disk: int,
) -> tuple[int, int, int, int]:
    """The fields that a zip64 extra record stands in for; source: APPNOTE.TXT 4.5.3."""
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if tag != 1:
            at += length
            continue
        values = [full, packed, header_offset]
        body = extra[at : at + length]
        used = 0
        for i, value in enumerate(values):
            if value == _ABSENT32:
                if used + 8 > len(body):
                    break
                values[i] = int.from_bytes(body[used : used + 8], "little")
                used += 8
        else:
            if disk == _ABSENT16 and used + 4 <= len(body):
                disk = int.from_bytes(body[used : used + 4], "little")
            return values[0], values[1], values[2], disk
        break
    raise _damaged(storage, f"member {name} lacks its zip64 sizes")


def _locate(storage: FileStorage, members: list[_Member], directory_offset: int) -> dict[str, Record]:
    """Where each member's bytes lie, after its local header has been found to agree with the directory."""
    records: dict[str, Record] = {}
    at = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        name, offset = member.name, member.header_offset
        if offset < at:
            raise _damaged(
                storage,
                f"member {name} overlaps the one before it",
                offset,
                f"at least {at}",
            )
        if offset + _LOCAL.size + len(member.raw_name) > directory_offset:
            raise _damaged(
                storage,
                f"member {name} lies outside the file",
                offset,
                f"below {directory_offset}",
            )
        raw = storage.read(offset, _LOCAL.size + len(member.raw_name))
        signature, _, flags, method, _, _, crc, packed, full, n_name, n_extra = _LOCAL.unpack_from(raw)
        agrees = (
            signature == b"PK\x03\x04"
            and raw[_LOCAL.size :] == member.raw_name
            and n_name == len(member.raw_name)
            and (flags, method) == (member.flags, member.method)
        )
        # With CRC and sizes deferred to a descriptor after the data, as torch writes them, the header may have zeros.
        deferred = (0,) if flags & _DEFERRED_SIZES else ()
        agrees = agrees and crc in (member.crc, *deferred)
        agrees = agrees and all(size in (member.size, _ABSENT32, *deferred) for size in (packed, full))
        if not agrees:
            raise _damaged(storage, f"member {name}: its header and the directory disagree")
        begin = offset + _LOCAL.size + n_name + n_extra
        at = begin + member.size
        if at > directory_offset:
            raise _damaged(
                storage,
                f"member {name} runs into the directory",
                at,
                f"at most {directory_offset}",
            )
        records[name] = Record(begin, member.size)
    return {member.name: records[member.name] for member in members}


def _damaged(storage: FileStorage, problem: str, found: object = None, expected: object = None) -> CheckpointError:
    return CheckpointError(
        f"archive is damaged: {problem}",
        file=storage.path,
        found=found,
        expected=expected,
        fix="download or copy it again",
    )
