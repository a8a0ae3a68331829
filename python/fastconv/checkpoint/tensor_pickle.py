"""Reads the pickle of a PyTorch checkpoint without running it: an interpreter that builds descriptions of tensors only.

No global is ever imported or called: tensor_globals.py lists the names that may be mentioned and what they stand for;
any other name ends the reading with that name. Every loop and allocation is bounded by the pickle's own length.
"""

from __future__ import annotations

import struct
from typing import Any

from fastconv.checkpoint.foreign_types import ELEMENT_BITS
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.limits import check_tensor_count
from fastconv.checkpoint.state_dict import find_state_dict
from fastconv.checkpoint.storage import FileStorage
from fastconv.checkpoint.tensor_globals import (
    ALLOWED,
    Global,
    Record,
    Refused,
    StorageRef,
    TensorRef,
    describe,
    is_size,
)
from fastconv.errors import CheckpointError

MAX_DEPTH = 1000  # of open marks


def read_tensor_pickle(pickle: bytes, data: dict[str, Record], storage: FileStorage) -> dict[str, LazyTensor]:
    """The tensors of the pickled state dict, in its order.

    pickle: protocol 2 to 5. data: the storages' bytes by key. Raises CheckpointError for anything that is not a tensor
    or plain data, naming it.
    """
    try:
        root = _Interpreter(pickle, data).run()
    except Refused as refused:
        raise CheckpointError(
            refused.what,
            file=storage.path,
            found=refused.found,
            expected=refused.expected,
        ) from None
    tensors: dict[str, LazyTensor] = {}
    found = find_state_dict(root, TensorRef, storage.path)
    check_tensor_count(storage.path, len(found))
    for name, ref in found.items():
        offset = ref.storage.record.offset + ref.offset * ELEMENT_BITS[ref.dtype] // 8
        try:
            tensors[name] = LazyTensor.stored(name, ref.dtype, ref.shape, storage, offset, ref.strides)
        except ValueError:
            raise CheckpointError(
                "strides do not fold into rows",
                file=storage.path,
                tensor=name,
                found=f"shape {ref.shape}, strides {ref.strides}",
                fix="save it again after .contiguous()",
            ) from None
    return tensors


# Source of the opcodes: the descriptions in Python's pickletools.

MAX_OBJECT_BYTES = 64 << 20  # that 40,000 tensors take


class _Interpreter:
    """Runs the opcodes that picklers of protocol 2 to 5 write; the others, which load code, are refused."""

    def __init__(self, pickle: bytes, data: dict[str, Record]) -> None:
        self._pickle = pickle
        self._data = data

    def run(self) -> Any:
        try:
            return self._run()
        except (IndexError, struct.error):
            raise Refused("data.pkl is truncated or malformed") from None
        except UnicodeDecodeError:
            raise Refused("data.pkl holds a string that is not UTF-8") from None

    def _run(self) -> Any:
        pickle = self._pickle
        end = len(pickle)
        memo: list[Any] = []  # picklers number what they store from 0 on
        spent = 0
        marks: list[list[Any]] = []
        stack: list[Any] = []
        push = stack.append
        at = 0
        while True:
            op = pickle[at]
            at += 1
            spent += _COSTS[op]
            if spent > MAX_OBJECT_BYTES:
                raise Refused("data.pkl makes more objects than a model", expected=f"at most {MAX_OBJECT_BYTES} bytes")
            # Most frequent first.
            if op == 0x72:  # LONG_BINPUT
                _store(memo, _U32(pickle, at)[0], stack[-1])
                at += 4
            elif op == 0x4B:  # BININT1
                push(pickle[at])
                at += 1
            elif op == 0x68:  # BINGET
                push(_recall(memo, pickle[at]))
                at += 1
            elif op == 0x58:  # BINUNICODE
                length = _U32(pickle, at)[0]
                at += 4
                push(_slice(pickle, at, length).decode("utf-8"))
                at += length
            elif op == 0x28:  # MARK
                if len(marks) >= MAX_DEPTH:
                    raise Refused("data.pkl is nested too deeply", expected=f"at most {MAX_DEPTH}")
                marks.append(stack)
                stack = []
                push = stack.append
            elif op == 0x74:  # TUPLE
                value = tuple(stack)
                stack = marks.pop()
                push = stack.append
                push(value)
            elif op == 0x86:  # TUPLE2
                stack[-2:] = [(stack[-2], stack[-1])]
            elif op == 0x52:  # REDUCE
                args = stack.pop()
                stack[-1] = _reduce(stack[-1], args)
            elif op == 0x51:  # BINPERSID
                stack[-1] = self._persistent(stack[-1])
            elif op == 0x89:  # NEWFALSE
                push(False)
            elif op == 0x29:  # EMPTY_TUPLE
                push(())
            elif op == 0x71:  # BINPUT
                _store(memo, pickle[at], stack[-1])
                at += 1
            elif op == 0x6A:  # LONG_BINGET
                push(_recall(memo, _U32(pickle, at)[0]))
                at += 4
            elif op == 0x4A:  # BININT
                push(_I32(pickle, at)[0])
                at += 4
            elif op == 0x4D:  # BININT2
                push(_U16(pickle, at)[0])
                at += 2
            elif op == 0x94:  # MEMOIZE
                memo.append(stack[-1])
            elif op == 0x8C:  # SHORT_BINUNICODE
                length = pickle[at]
                at += 1
                push(_slice(pickle, at, length).decode("utf-8"))
                at += length
            elif op == 0x85:  # TUPLE1
                stack[-1] = (stack[-1],)
            elif op == 0x8A:  # LONG1
                length = pickle[at]
                at += 1
                push(int.from_bytes(_slice(pickle, at, length), "little", signed=True))
                at += length
            elif op == 0x87:  # TUPLE3
                stack[-3:] = [(stack[-3], stack[-2], stack[-1])]
            elif op == 0x88:  # NEWTRUE
                push(True)
            elif op == 0x4E:  # NONE
                push(None)
            elif op == 0x7D:  # EMPTY_DICT
                push({})
            elif op == 0x5D:  # EMPTY_LIST
                push([])
            elif op == 0x63:  # GLOBAL
                module, at = _line(pickle, at)
                name, at = _line(pickle, at)
                push(_find(module, name))
            elif op == 0x93:  # STACK_GLOBAL
                name = stack.pop()
                module = stack.pop()
                push(_find(module, name))
            elif op == 0x75:  # SETITEMS
                items = stack
                stack = marks.pop()
                push = stack.append
                _set_items(stack[-1], items)
            elif op == 0x73:  # SETITEM
                value = stack.pop()
                key = stack.pop()
                _set_items(stack[-1], [key, value])
            elif op == 0x65:  # APPENDS
                items = stack
                stack = marks.pop()
                push = stack.append
                _append(stack[-1], items)
            elif op == 0x61:  # APPEND
                item = stack.pop()
                _append(stack[-1], [item])
            elif op == 0x47:  # BINFLOAT
                push(_F64(pickle, at)[0])
                at += 8
            elif op == 0x62:  # BUILD
                state = stack.pop()
                if type(stack[-1]) is not dict or not isinstance(state, dict):
                    raise Refused(
                        "data.pkl sets the state of an object",
                        describe(stack[-1]),
                        "an OrderedDict",
                    )
            elif op in _BYTES:  # BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8, BINSTRING, SHORT_BINSTRING
                unpack, width = _BYTES[op]
                length = unpack(pickle, at)[0]
                at += width
                push(_slice(pickle, at, length))
                at += length
            elif op == 0x8D:  # BINUNICODE8
                length = _U64(pickle, at)[0]
                at += 8
                push(_slice(pickle, at, length).decode("utf-8"))
                at += length
            elif op == 0x80:  # PROTO
                if not 2 <= pickle[at] <= 5:
                    raise Refused("data.pkl is of an unknown protocol", pickle[at], "2 to 5")
                at += 1
            elif op == 0x95:  # FRAME
                if _U64(pickle, at)[0] > end - at - 8:
                    raise Refused("data.pkl is truncated or malformed")
                at += 8
            elif op == 0x30:  # POP
                if stack:
                    stack.pop()
                else:
                    stack = marks.pop()
                    push = stack.append
            elif op == 0x31:  # POP_MARK
                stack = marks.pop()
                push = stack.append
            elif op == 0x8F:  # EMPTY_SET
                push(_Set())
            elif op == 0x90:  # ADDITEMS
                stack = marks.pop()
                push = stack.append
                if type(stack[-1]) is not _Set:
                    raise Refused("data.pkl adds items to what is no set", describe(stack[-1]))
            elif op == 0x91:  # FROZENSET
                stack = marks.pop()
                push = stack.append
                push(_Set())
            elif op == 0x2E:  # STOP
                if marks or len(stack) != 1:
                    raise Refused("data.pkl ends with an unfinished object")
                if at != end:
                    raise Refused("data.pkl has bytes after its end", f"{end} bytes", at)
                return stack[0]
            else:
                raise _refuse_opcode(op, pickle, at, stack)

    def _persistent(self, pid: Any) -> StorageRef:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise Refused("data.pkl refers to something that is no storage", describe(pid))
        _, cls, key, _, n_elements = pid
        if not isinstance(cls, Global) or cls.kind != "storage":
            raise Refused("a storage is of an unknown class", describe(cls))
        if is_size(key):  # as LitGPT's incremental_save numbers them
            key = str(key)
        if not isinstance(key, str) or not is_size(n_elements):
            raise Refused("a storage is malformed", describe((key, n_elements)))
        record = self._data.get(key)
        if record is None:
            raise Refused(f"storage {key[:80]} is missing from the archive")
        n_bytes = n_elements * (1 if cls.value is None else ELEMENT_BITS[cls.value] // 8)
        if n_bytes != record.size:
            raise Refused(
                f"storage {key[:80]} is not of the size stated",
                f"{record.size} bytes",
                n_bytes,
            )
        return StorageRef(key, cls.value, record)


_U16 = struct.Struct("<H").unpack_from
_U32 = struct.Struct("<I").unpack_from
_I32 = struct.Struct("<i").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_F64 = struct.Struct(">d").unpack_from
_U8 = struct.Struct("<B").unpack_from
_BYTES = {
    0x42: (_U32, 4),
    0x43: (_U8, 1),
    0x8E: (_U64, 8),
    0x96: (_U64, 8),
    0x54: (_U32, 4),
    0x55: (_U8, 1),
}


# Bytes that an opcode may leave allocated, from above: places on the stack, in a container or the memo; numbers and
# strings, short of their length; and containers with their first item.
_PLACES = b"\x28\x29\x30\x31\x4b\x4e\x68\x6a\x71\x72\x88\x89\x94"
_SCALARS = b"\x42\x43\x47\x4a\x4d\x54\x55\x58\x8a\x8c\x8d\x8e\x96"
_CONTAINERS = b"\x28\x51\x52\x5d\x74\x7d\x85\x86\x87\x8f\x91"
_COSTS = [96 if op in _CONTAINERS else 80 if op in _SCALARS else 16 if op in _PLACES else 0 for op in range(256)]


class _Set:
    """Stands for a set; its items are metadata and are dropped."""

    __slots__ = ()


def _slice(pickle: bytes, at: int, length: int) -> bytes:
    if length > len(pickle) - at:
        raise Refused(
            "data.pkl is truncated or malformed",
            f"{len(pickle) - at} bytes left",
            length,
        )
    return pickle[at : at + length]


def _line(pickle: bytes, at: int) -> tuple[str, int]:
    end = pickle.find(b"\n", at, at + 256)
    if end < 0:
        raise Refused("data.pkl names a global that does not end")
    return pickle[at:end].decode("utf-8"), end + 1


def _store(memo: list[Any], index: int, value: Any) -> None:
    if index == len(memo):
        memo.append(value)
    elif index < len(memo):
        memo[index] = value
    else:
        raise Refused("data.pkl stores out of order", index, f"at most {len(memo)}")


def _recall(memo: list[Any], index: int) -> Any:
    if index >= len(memo):
        raise Refused("data.pkl recalls what it never stored", index)
    return memo[index]


def _find(module: Any, name: Any) -> Global:
    if not isinstance(module, str) or not isinstance(name, str):
        raise Refused(
            "data.pkl names a global by what is no string",
            f"{describe(module)}, {describe(name)}",
        )
    found = ALLOWED.get(f"{module}.{name}")
    if found is None:
        raise _refuse_global(f"{module}.{name}")
    return found


def _refuse_global(name: str) -> Refused:
    return Refused(f"pickle names {name[:200]}, which no tensor needs; refused, nothing was executed")


def _refuse_opcode(op: int, pickle: bytes, at: int, stack: list[Any]) -> Refused:
    if op == 0x69:  # INST
        module, at = _line(pickle, at)
        return _refuse_global(f"{module}.{_line(pickle, at)[0]}")
    if op in (0x6F, 0x81, 0x92):  # OBJ, NEWOBJ, NEWOBJ_EX
        named = [item.name for item in stack if isinstance(item, Global)]
        return _refuse_global(f"an instance of {named[0] if op == 0x6F and named else (named or ['?'])[-1]}")
    if op in (0x82, 0x83, 0x84):  # EXT1, EXT2, EXT4
        return _refuse_global("an entry of the copyreg extension registry")
    return Refused(f"data.pkl holds opcode 0x{op:02x}, which checkpoints do not use")


def _reduce(function: Any, args: Any) -> Any:
    if not isinstance(function, Global) or function.kind != "call":
        raise Refused("data.pkl calls what is no function", describe(function))
    if type(args) is not tuple:
        raise Refused(f"{function.name} is called without arguments", describe(args))
    return function.value(args)


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise Refused("data.pkl sets items of what is no dictionary", describe(target))
    for i in range(0, len(items), 2):
        # Hashing a tuple walks all of it, and shared tuples make that walk exponential.
        if not isinstance(items[i], str | int | float | bytes | None):
            raise Refused(
                "a dictionary's key is not plain",
                describe(items[i]),
                "a string or number",
            )
        target[items[i]] = items[i + 1]


def _append(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise Refused("data.pkl appends to what is no list", describe(target))
    target.extend(items)
