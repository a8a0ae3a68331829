"""The reader of PyTorch checkpoints against torch's own loader, and one malformed archive per rule."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastconv.checkpoint import open_checkpoint
from fastconv.errors import CheckpointError
from tests.formats.format_builders import PickleBuilder, ZipBuilder, gathered, torch_zip_bytes

DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "bool": torch.bool,
}
DECODED = ("f64", "f32", "f16", "bf16", "f8_e4m3", "f8_e5m2")
SHAPES = [(), (7,), (3, 5), (2, 3, 4), (0,), (4, 0), (1, 1), (2, 1, 3)]


def check_equal(file: Path, state_dict: dict[str, torch.Tensor]) -> None:
    tensors = open_checkpoint(file).tensors
    assert list(tensors) == list(state_dict)
    for name, tensor in tensors.items():
        truth = state_dict[name].detach()
        assert tensor.shape == tuple(truth.shape)
        if tensor.n_elements:
            np.testing.assert_array_equal(gathered(tensor), truth.to(torch.float64).numpy(), err_msg=name)
        if tensor.n_elements and tensor.dtype in DECODED:
            np.testing.assert_array_equal(tensor.numpy(), truth.to(torch.float32).numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("dtype", "legacy"),
    # torch itself cannot read fp8 back from its old format.
    [(dtype, legacy) for dtype in DTYPES for legacy in (False, True) if not (legacy and dtype.startswith("f8"))],
)
def test_equals_torch_for_every_type(tmp_path: Path, dtype: str, legacy: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = {f"t{i}": (torch.randn(s, generator=generator) * 9).to(DTYPES[dtype]) for i, s in enumerate(SHAPES)}
    file = tmp_path / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=not legacy)
    check_equal(file, torch.load(file, weights_only=True))
    assert {tensor.dtype for tensor in open_checkpoint(file).tensors.values()} == {dtype}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_views_and_shared_storages(tmp_path: Path, legacy: bool) -> None:
    base = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    views = {
        "base": base,
        "transposed": base.T,
        "block": base[1:4, 2:9],
        "strided": base[::2, 1::3],
        "column": base[:, 3],
        "row": base[4],
        "scalar": base[2, 2],
        "expanded": base[:1].expand(5, 10),
        "expanded column": base[:, :1].expand(6, 4),
        "folded": base.view(2, 3, 10)[:, :, ::2],
        "tied": base,
        "parameter": torch.nn.Parameter(base[:2]),
        "empty": base[:0],
        "unit dimensions": base[:3].unsqueeze(1),
        "unit dimension between": base.view(2, 3, 10)[:, 1:2],
    }
    file = tmp_path / "model.pt"
    torch.save(views, file, _use_new_zipfile_serialization=not legacy)
    check_equal(file, views)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict", "module"])
def test_state_dicts_as_scripts_save_them(tmp_path: Path, wrap: str | None) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    weights = module.state_dict()
    assert isinstance(weights, OrderedDict)
    assert weights._metadata  # an attribute, which the pickle sets with BUILD
    root: Any = weights
    if wrap:
        other = {"w": torch.zeros(2), "lr": 1e-3, "betas": (0.9, 0.95), "steps": [1, None, {"a": b"x"}], "big": 2**80}
        root = {"epoch": 3, "optimizer": other, wrap: weights, "name": "ä", "tags": {"a", "b"}, "size": torch.Size([2])}
    for protocol in (2, 3, 4, 5):
        torch.save(root, tmp_path / "model.pth", pickle_protocol=protocol)
        check_equal(tmp_path / "model.pth", dict(weights))


def test_parameters_with_state_and_other_types_are_read(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    parameter.tag = "norm"
    torch.save({"p": parameter}, tmp_path / "p.pt")
    check_equal(tmp_path / "p.pt", {"p": parameter})
    torch.save({"u": torch.arange(3).to(torch.uint16), "c": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "p.pt")
    assert [t.dtype for t in open_checkpoint(tmp_path / "p.pt").tensors.values()] == ["u16", "c64"]


def test_nothing_imports_torch(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "pytorch_model.bin")
    code = """
        import sys
        sys.modules["torch"] = None
        from fastconv.checkpoint import open_checkpoint
        print(open_checkpoint(sys.argv[1]).tensors["w"].shape)
        assert "gguf" not in sys.modules
    """
    run = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.stdout == "(2, 2)\n", done.stderr


def test_legacy_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.pth"
    torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CheckpointError, match=r"only torch reads; pip install fastconv\[torch\]"):
        open_checkpoint(file)


def test_legacy_that_torch_refuses(tmp_path: Path) -> None:
    import datetime

    file = tmp_path / "model.pth"
    torch.save({"w": datetime.timedelta(1)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="torch cannot read it"):
        open_checkpoint(file)
    torch.save({"w": torch.ones(40)}, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    for length in range(16, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(file)


GOOD = PickleBuilder().state_dict("w", PickleBuilder().tensor("0", 6, [2, 3], [3, 1]))
DATA = np.arange(6, dtype="<f4").tobytes()


def archive(**options: Any) -> ZipBuilder:
    """A good checkpoint; options go to its storage's member."""
    return ZipBuilder().add("archive/data.pkl", GOOD).add("archive/data/0", DATA, **options)


def zip64_extra(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def test_hand_made_archives_are_read(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    far = len(ZipBuilder().add("archive/data.pkl", GOOD).body)
    absent = 0xFFFFFFFF
    for raw in (
        torch_zip_bytes(GOOD, {"0": DATA}),
        torch_zip_bytes(GOOD, {"0": DATA}, version=b"3\n", byteorder=b"little"),
        archive().bytes(zip64=True),
        archive(
            local={"packed": absent, "full": absent},
            local_extra=zip64_extra(24, 24),
            central={"packed": absent, "full": absent, "offset": absent},
            central_extra=struct.pack("<2H3s", 0x4246, 3, b"ZZZ") + zip64_extra(24, 24, far),
        ).bytes(zip64=True),
        archive(flags=8, local={"crc": 0, "packed": 0, "full": 0}).bytes(),
    ):
        file.write_bytes(raw)
        np.testing.assert_array_equal(gathered(open_checkpoint(file).tensors["w"]), np.arange(6).reshape(2, 3))


def corrupted(old: bytes, new: bytes) -> bytes:
    raw = archive().bytes()
    assert old in raw
    return raw.replace(old, new, 1)


BAD_SIZES = {"packed": 0xFFFFFFFF, "full": 0xFFFFFFFF}
MALFORMED = {
    "no directory": (archive().bytes()[:-22], "archive is truncated (no directory at its end)"),
    "comment": (archive().bytes(comment=5), "a comment is announced"),
    "one volume of several": (archive().bytes(disk=1), "is one volume of several"),
    "directory past the end": (archive().bytes(offset=1 << 30), "directory does not end where it should"),
    "directory too large": (archive().bytes(size=1 << 30), "directory does not end where it should"),
    "directory moved": (archive().bytes(offset=0), "directory does not end where it should"),
    "too many members": (archive().bytes(n=9999), "directory is too small for its members"),
    "one member too many": (archive().bytes(n=3), "directory is too small for its members"),
    "one member too few": (archive().bytes(n=1), "directory has bytes after its last member"),
    "zip64 lost": (archive().bytes(n=0xFFFF), "zip64 locator is missing"),
    "zip64 locator past the end": (archive().bytes(zip64=True, locator=1 << 40), "zip64 locator is malformed"),
    "zip64 locator to nowhere": (archive().bytes(zip64=True, locator=0), "zip64 end of directory is malformed"),
    "zip64 member without sizes": (
        archive(local=BAD_SIZES, central=BAD_SIZES).bytes(),
        "member archive/data/0 lacks its zip64 sizes",
    ),
    "zip64 member with one size": (
        archive(local=BAD_SIZES, central=BAD_SIZES, central_extra=zip64_extra(24)).bytes(),
        "member archive/data/0 lacks its zip64 sizes",
    ),
    "zip64 size of 2^63": (
        archive(local=BAD_SIZES, central=BAD_SIZES, central_extra=zip64_extra(2**63, 2**63)).bytes(),
        "member archive/data/0 runs into the directory",
    ),
    "compressed": (archive(method=8).bytes(), "archive member archive/data/0 is compressed"),
    "two sizes": (archive(central={"packed": 23}).bytes(), "archive member archive/data/0 is compressed"),
    "encrypted": (archive(flags=1).bytes(), "member archive/data/0 is encrypted"),
    "strongly encrypted": (archive(flags=0x41).bytes(), "member archive/data/0 is encrypted"),
    "member twice": (archive().add("archive/data/0", DATA).bytes(), "member archive/data/0 appears twice"),
    "another volume": (archive(central={"disk": 1}).bytes(), "member archive/data/0 lies on another volume"),
    "name not UTF-8": (archive().add(b"archive/\xff", b"").bytes(), "a member's name is not UTF-8"),
    "central signature": (archive(central={"signature": b"PK\1\3"}).bytes(), "directory holds a malformed member"),
    "local signature": (archive(local={"signature": b"PK\3\5"}).bytes(), "its header and the directory disagree"),
    "local name": (archive(local={"name": b"archive/data/1"}).bytes(), "its header and the directory disagree"),
    "local method": (archive(local={"method": 8}).bytes(), "its header and the directory disagree"),
    "local flags": (archive(local={"flags": 2}).bytes(), "its header and the directory disagree"),
    "local CRC": (archive(local={"crc": 1}).bytes(), "its header and the directory disagree"),
    "local size": (archive(local={"full": 20, "packed": 20}).bytes(), "its header and the directory disagree"),
    "member past the end": (
        archive(central={"offset": 1 << 30}).bytes(),
        "member archive/data/0 lies outside the fil",
    ),
    "member onto another": (archive(central={"offset": 4}).bytes(), "member archive/data/0 overlaps the one before it"),
    "member into the directory": (
        archive(local={"full": 99, "packed": 99}, central={"full": 99, "packed": 99}).bytes(),
        "member archive/data/0 runs into the directory",
    ),
    "no pickle": (ZipBuilder().add("archive/data/0", DATA).bytes(), "archive holds no single data.pkl: found none"),
    "two pickles": (archive().add("b/data.pkl", GOOD).bytes(), "archive holds no single data.pkl"),
    "TorchScript": (archive().add("archive/constants.pkl", b"").bytes(), "is a TorchScript program"),
    "big-endian": (torch_zip_bytes(GOOD, {"0": DATA}, byteorder=b"big"), "byte order is not supported: found b'big'"),
    "endless byte order": (torch_zip_bytes(GOOD, {"0": DATA}, byteorder=b"x" * 99), "byteorder is too large"),
    "damaged pickle": (corrupted(b"FloatStorage", b"Fl0atStorage"), "data.pkl is damaged (its CRC-32 disagrees)"),
    "enormous pickle": (torch_zip_bytes(GOOD + bytes(9 << 20), {"0": DATA}), "data.pkl is too large"),
    "storage missing": (torch_zip_bytes(GOOD), "storage 0 is missing from the archive"),
    "storage too small": (torch_zip_bytes(GOOD, {"0": DATA[:20]}), "storage 0 is not of the size stated: found 20"),
    "storage too large": (torch_zip_bytes(GOOD, {"0": DATA + b"\0"}), "storage 0 is not of the size stated: found 25"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_archive_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    raw, message = MALFORMED[case]
    file = tmp_path / "model.pt"
    file.write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(file)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def one_tensor(n: int, shape: list[int], strides: list[int], offset: int = 0) -> bytes:
    pickle = PickleBuilder().state_dict("w", PickleBuilder().tensor("0", n, shape, strides, offset))
    return torch_zip_bytes(pickle, {"0": bytes(4 * n)})


BAD_TENSORS = {
    "past the end": (one_tensor(6, [2, 4], [4, 1]), "a tensor runs past the end of storage 0: found 6 elements"),
    "offset past the end": (one_tensor(6, [2, 3], [3, 1], 1), "runs past the end of storage 0"),
    "stride past the end": (one_tensor(6, [2, 3], [4, 1]), "runs past the end of storage 0"),
    "empty, offset past the end": (one_tensor(6, [0, 3], [3, 1], 7), "runs past the end of storage 0"),
    "negative offset": (one_tensor(6, [2], [1], -1), "a tensor on storage 0 is malformed"),
    "negative size": (one_tensor(6, [-2, 3], [3, 1]), "a tensor on storage 0 is malformed"),
    "negative stride": (one_tensor(6, [2, 3], [-3, 1], 3), "a tensor on storage 0 is malformed"),
    "size of 2^63": (one_tensor(6, [2**63], [0]), "a tensor on storage 0 is malformed"),
    "2^64 elements": (one_tensor(6, [2**32, 2**32], [0, 0]), "a tensor on storage 0 is too large"),
    "stride of 2^62": (one_tensor(6, [3, 3], [2**62, 1]), "runs past the end of storage 0"),
    "more strides than sizes": (one_tensor(6, [2], [3, 1]), "a tensor on storage 0 is malformed"),
    "65 dimensions": (one_tensor(6, [1] * 65, [1] * 65), "a tensor on storage 0 is malformed"),
    "does not fold": (
        one_tensor(24, [2, 3, 4], [4, 8, 1]),
        "tensor w: strides do not fold into rows: found shape (2, 3, 4), strides (4, 8, 1)",
    ),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_tensor_outside_its_storage_is_refused(tmp_path: Path, case: str) -> None:
    raw, message = BAD_TENSORS[case]
    (tmp_path / "model.pt").write_bytes(raw)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path / "model.pt")
    assert message in str(raised.value)


ROOTS = {
    "a tensor": (torch.ones(2), "holds no dictionary of tensors"),
    "a list": ([torch.ones(2)], "holds no dictionary of tensors"),
    "nothing": ({}, "holds no single state dict: found keys none"),
    "numbers": ({"lr": 1, 3: 4}, "holds no single state dict: found keys lr, 3"),
    "two models": ({"model": {"a": torch.ones(2)}, "module": {"a": torch.ones(2)}}, "holds no single state dict"),
    "unknown wrapper": ({"ema": {"a": torch.ones(2)}}, "holds no single state dict: found keys ema"),
    "dictionaries beside tensors": ({"a": torch.ones(2), "b": {"c": torch.ones(2)}}, "dictionary of tensors beside"),
    "a name that is no string": ({1: torch.ones(2)}, "a tensor's name is not a string: found 1"),
}


@pytest.mark.parametrize("case", ROOTS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, case: str, legacy: bool) -> None:
    root, message = ROOTS[case]
    torch.save(root, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(tmp_path / "model.pt")
    assert message in str(raised.value)


def test_every_prefix_is_refused(tmp_path: Path) -> None:
    whole = archive().bytes()
    file = tmp_path / "model.pt"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(file)


def test_every_prefix_of_the_pickle_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    for length in range(len(GOOD)):
        file.write_bytes(torch_zip_bytes(GOOD[:length], {"0": DATA}))
        with pytest.raises(CheckpointError):
            open_checkpoint(file)
