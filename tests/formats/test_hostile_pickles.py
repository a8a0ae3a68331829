"""Pickles that would run code, or eat memory, in a pickle module: refused by name, and nothing of them happens."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import PickleBuilder, torch_zip_bytes


def call(module: str, name: str, *arguments: str) -> bytes:
    pickle = PickleBuilder().global_(module, name).op(b"(")
    for argument in arguments:
        pickle.text(argument)
    return pickle.op(b"tR.").code


COMMAND = "touch executed"
CODE = "open('executed', 'w')"


def unicode_(text: str) -> bytes:
    raw = text.encode()
    return b"\x8c" + bytes([len(raw)]) + raw


def stack_global(module: str, name: str) -> bytes:
    return b"\x80\x04" + unicode_(module) + unicode_(name) + b"\x93"


NESTED_CALL = PickleBuilder().global_("collections", "OrderedDict").op(b"(").global_("os", "system").text(COMMAND)
# What a pickle calls, and the name that the error must say.
CALLS = {
    "os.system": (call("os", "system", COMMAND), "os.system"),
    "posix.system": (call("posix", "system", COMMAND), "posix.system"),
    "nt.system": (call("nt", "system", COMMAND), "nt.system"),
    "subprocess": (call("subprocess", "check_output", COMMAND), "subprocess.check_output"),
    "Popen": (call("subprocess", "Popen", COMMAND), "subprocess.Popen"),
    "eval": (call("builtins", "eval", CODE), "builtins.eval"),
    "exec": (call("builtins", "exec", CODE), "builtins.exec"),
    "eval of Python 2": (call("__builtin__", "eval", CODE), "__builtin__.eval"),
    "compile": (call("builtins", "compile", CODE, "x", "exec"), "builtins.compile"),
    "__import__": (call("builtins", "__import__", "os"), "builtins.__import__"),
    "import_module": (call("importlib", "import_module", "os"), "importlib.import_module"),
    "getattr": (call("builtins", "getattr", "x", "y"), "builtins.getattr"),
    "attrgetter": (call("operator", "attrgetter", "system"), "operator.attrgetter"),
    "methodcaller": (call("operator", "methodcaller", "system", COMMAND), "operator.methodcaller"),
    "partial": (call("functools", "partial", "x"), "functools.partial"),
    "open": (call("builtins", "open", "executed", "w"), "builtins.open"),
    "open in io": (call("io", "open", "executed", "w"), "io.open"),
    "pickle in pickle": (call("pickle", "loads", "x"), "pickle.loads"),
    "torch.load": (call("torch", "load", "x"), "torch.load"),
    "torch.hub": (call("torch.hub", "load", "x"), "torch.hub.load"),
    "run in torch": (call("torch.utils.cpp_extension", "load", "x"), "torch.utils.cpp_extension.load"),
    "NumPy's pickles": (call("numpy.core.multiarray", "_reconstruct", "x"), "numpy.core.multiarray._reconstruct"),
    "a dotted name": (call("torch._utils", "os.system", COMMAND), "torch._utils.os.system"),
    "a dotted module": (call("torch._utils.sys.modules", "os", COMMAND), "torch._utils.sys.modules.os"),
    "a name beside an allowed one": (call("torch._utils", "_rebuild_qtensor", "x"), "torch._utils._rebuild_qtensor"),
    "an allowed name elsewhere": (call("evil", "_rebuild_tensor_v2", "x"), "evil._rebuild_tensor_v2"),
    "a method of an allowed class": (call("collections", "OrderedDict.fromkeys", "x"), "collections.OrderedDict.fro"),
    "runpy": (call("runpy", "run_path", "x"), "runpy.run_path"),
    "pty": (call("pty", "spawn", "sh"), "pty.spawn"),
    "pdb": (call("pdb", "run", CODE), "pdb.run"),
    "timeit": (call("timeit", "timeit", CODE), "timeit.timeit"),
    "ctypes": (call("ctypes", "CDLL", "x"), "ctypes.CDLL"),
    "pip": (call("pip", "main", "x"), "pip.main"),
    "webbrowser": (call("webbrowser", "open", "x"), "webbrowser.open"),
    "types": (call("types", "CodeType", "x"), "types.CodeType"),
    "a class of the user": (call("__main__", "Model", "x"), "__main__.Model"),
    "STACK_GLOBAL": (stack_global("os", "system") + unicode_(COMMAND) + b"\x85R.", "os.system"),
    "INST": (b"\x80\x02(" + unicode_(COMMAND) + b"ios\nsystem\n.", "os.system"),
    "only mentioned": (PickleBuilder().global_("os", "system").op(b"0}.").code, "os.system"),
    "inside arguments": (NESTED_CALL.op(b"\x85RtR.").code, "os.system"),
    "inside a persistent id": (PickleBuilder().global_("os", "system").op(b"Q.").code, "os.system"),
}


@pytest.mark.parametrize("case", CALLS)
def test_global_is_named_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    pickle, name = CALLS[case]
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(torch_zip_bytes(pickle))
    modules = set(sys.modules)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint("model.pt")
    assert f"pickle names {name}" in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert set(sys.modules) == modules


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def ops(raw: bytes) -> bytes:
    return PickleBuilder().op(raw).code


ORDERED_DICT = PickleBuilder().global_("collections", "OrderedDict").code[2:]
TENSOR_CALL = PickleBuilder().global_("torch._utils", "_rebuild_tensor_v2").code[2:]
FROM_TYPE = PickleBuilder().global_("torch._tensor", "_rebuild_from_type_v2").code[2:]
PARAMETER = PickleBuilder().global_("torch._utils", "_rebuild_parameter").code[2:]
FLOAT_STORAGE = PickleBuilder().global_("torch", "FloatStorage").code[2:]
TEXT = PickleBuilder().text("x").code[2:]
# Opcodes used in ways that checkpoints do not, and what the error must say.
MISUSE = {
    "empty": (b"", "data.pkl is truncated or malformed"),
    "no STOP": (ops(b"}"), "data.pkl is truncated or malformed"),
    "nothing on the stack": (ops(b"."), "data.pkl ends with an unfinished object"),
    "two on the stack": (ops(b"}}."), "data.pkl ends with an unfinished object"),
    "open mark": (ops(b"}(."), "data.pkl ends with an unfinished object"),
    "bytes after the end": (ops(b"}.}"), "data.pkl has bytes after its end"),
    "protocol 0": (b"\x80\x00}.", "data.pkl is of an unknown protocol: found 0"),
    "protocol 6": (b"\x80\x06}.", "data.pkl is of an unknown protocol: found 6"),
    "unknown opcode": (ops(b"\xff"), "data.pkl holds opcode 0xff"),
    "text of protocol 0": (ops(b"S'x'\n."), "data.pkl holds opcode 0x53"),
    "number of protocol 0": (ops(b"I1\n."), "data.pkl holds opcode 0x49"),
    "persistent id of protocol 0": (ops(b"Px\n."), "data.pkl holds opcode 0x50"),
    "out-of-band buffer": (ops(b"\x97."), "data.pkl holds opcode 0x97"),
    "LONG4": (ops(b"\x8b" + u32(2**31 - 1) + b"x."), "data.pkl holds opcode 0x8b"),
    "DUP": (ops(b"}2."), "data.pkl holds opcode 0x32"),
    "copyreg extension": (ops(b"\x82\x01."), "pickle names an entry of the copyreg extension registry"),
    "NEWOBJ": (ops(ORDERED_DICT + b")\x81."), "pickle names an instance of collections.OrderedDict"),
    "NEWOBJ_EX": (ops(ORDERED_DICT + b")}\x92."), "pickle names an instance of collections.OrderedDict"),
    "OBJ": (ops(b"(" + ORDERED_DICT + b"o."), "pickle names an instance of collections.OrderedDict"),
    "string of 4 GB": (ops(b"X" + u32(2**32 - 1) + b"x"), "data.pkl is truncated or malformed"),
    "string of 2^64": (ops(b"\x8d" + u64(2**64 - 1) + b"x"), "data.pkl is truncated or malformed"),
    "bytes of 4 GB": (ops(b"B" + u32(2**32 - 1) + b"x"), "data.pkl is truncated or malformed"),
    "bytes of 2^63": (ops(b"\x8e" + u64(2**63) + b"x"), "data.pkl is truncated or malformed"),
    "bytearray of 2^63": (ops(b"\x96" + u64(2**63) + b"x"), "data.pkl is truncated or malformed"),
    "frame past the end": (ops(b"\x95" + u64(2**40) + b"}."), "data.pkl is truncated or malformed"),
    "number past the end": (ops(b"\x8a\xff\x01"), "data.pkl is truncated or malformed"),
    "string not UTF-8": (ops(b"\x8c\x01\xff."), "data.pkl holds a string that is not UTF-8"),
    "recalls what was never stored": (ops(b"j" + u32(2**32 - 1) + b"."), "data.pkl recalls what it never stored"),
    "global without end": (ops(b"c" + b"x" * 300), "data.pkl names a global that does not end"),
    "global by a number": (ops(b"K\x01K\x01\x93."), "data.pkl names a global by what is no string"),
    "nested marks": (ops(b"(" * 2000), "data.pkl is nested too deeply"),
    "calls a number": (ops(b"K\x01)R."), "data.pkl calls what is no function: found 1"),
    "calls a string": (ops(TEXT + b")R."), "data.pkl calls what is no function: found 'x'"),
    "calls a storage class": (ops(FLOAT_STORAGE + b")R."), "data.pkl calls what is no function: found torch.FloatS"),
    "calls with a list": (ops(ORDERED_DICT + b"]R."), "collections.OrderedDict is called without arguments"),
    "OrderedDict of items": (ops(ORDERED_DICT + b"]\x85R."), "OrderedDict has 1 arguments"),
    "tensor of nothing": (ops(TENSOR_CALL + b")R."), "_rebuild_tensor_v2 has 0 arguments"),
    "tensor of a string": (ops(TENSOR_CALL + b"(" + TEXT + b"K\0)))" + b")tR."), "a tensor has no storage: found 'x'"),
    "parameter of a list": (ops(PARAMETER + b"]\x89)\x87R."), "a parameter holds no tensor: found list"),
    "from another class": (
        ops(FROM_TYPE + b"(" + TENSOR_CALL + FLOAT_STORAGE + b"))tR."),
        "a tensor is of a class that is not plain: found torch.FloatStorage",
    ),
    "through another function": (
        ops(FROM_TYPE + b"(" + ORDERED_DICT + PickleBuilder().global_("torch", "Tensor").code[2:] + b"))tR."),
        "a tensor is rebuilt by something else: found collections.OrderedDict",
    ),
    "through itself": (
        ops(FROM_TYPE + b"(" + FROM_TYPE + PickleBuilder().global_("torch", "Tensor").code[2:] + b"))tR."),
        "a tensor is rebuilt by something else",
    ),
    "persistent id a string": (ops(TEXT + b"Q."), "data.pkl refers to something that is no storage"),
    "persistent id of 1": (ops(TEXT + b"\x85Q."), "data.pkl refers to something that is no storage"),
    "storage of a string": (
        ops(b"(" + PickleBuilder().text("storage").code[2:] + TEXT * 3 + b"K\1tQ."),
        "a storage is of an unknown class: found 'x'",
    ),
    "storage of -1 elements": (PickleBuilder().storage("FloatStorage", "0", -1).op(b".").code, "a storage is malform"),
    "storage of 2^62 elements": (
        PickleBuilder().storage("FloatStorage", "0", 2**62).op(b".").code,
        "storage 0 is not of the size stated",
    ),
    "storage outside its folder": (
        PickleBuilder().storage("FloatStorage", "../data.pkl", 1).op(b".").code,
        "storage ../data.pkl is missing from the archive",
    ),
    "items of a number": (ops(b"K\1(K\1K\1u."), "data.pkl sets items of what is no dictionary"),
    "an odd number of items": (ops(b"}(K\1u."), "data.pkl sets items of what is no dictionary"),
    "item of a list": (ops(b"]K\1K\1s."), "data.pkl sets items of what is no dictionary"),
    "list as a key": (ops(b"}]K\1s."), "a dictionary's key is not plain: found list"),
    "tuple as a key": (ops(b"})K\1s."), "a dictionary's key is not plain"),
    "append to a tuple": (ops(b")K\1a."), "data.pkl appends to what is no list"),
    "extend a dictionary": (ops(b"}(K\1e."), "data.pkl appends to what is no list"),
    "add to a list": (ops(b"](K\1\x90."), "data.pkl adds items to what is no set"),
    "state of a list": (ops(b"]}b."), "data.pkl sets the state of an object"),
    "state of a global": (ops(ORDERED_DICT + b"}b."), "data.pkl sets the state of an object: found collections.Ord"),
    "state that is no dictionary": (ops(b"}]b."), "data.pkl sets the state of an object"),
    "a global as the model": (ops(ORDERED_DICT + b"."), "holds no dictionary of tensors"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_refused(tmp_path: Path, case: str) -> None:
    pickle, message = MISUSE[case]
    file = tmp_path / "model.pt"
    file.write_bytes(torch_zip_bytes(pickle, {"0": bytes(4)}))
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


MEMO = b"q\x00"
# Each is small, and endless to whoever walks, copies, compares or hashes it.
BOMBS = {
    "a tuple of itself 60 times": ops(b")" + b"q\x00h\x00\x86" * 60 + b"."),
    "a list in itself": ops(b"]" + MEMO + b"h\x00a."),
    "a dictionary in itself": ops(b"}" + MEMO + TEXT + b"h\x00s."),
    "a wrapper of itself": ops(b"}" + MEMO + PickleBuilder().text("model").code[2:] + b"h\x00s."),
    "a tower of tuples": ops(b")" + b"\x85" * 100_000 + b"."),
    "a tower of lists": ops(b"]" * 100_000 + b"a" * 99_999 + b"."),
    "a far memo": ops(b"}" + b"r" + u32(2**32 - 1) + b"."),
    "a hash of a tuple of itself": ops(b"})" + b"q\x00h\x00\x86" * 60 + b"K\1s."),
}


@pytest.mark.parametrize("case", BOMBS)
def test_bomb_is_refused(tmp_path: Path, case: str) -> None:
    import tracemalloc

    file = tmp_path / "model.pt"
    file.write_bytes(torch_zip_bytes(BOMBS[case]))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            open_checkpoint(file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (1 << 20) + 200 * len(BOMBS[case])
