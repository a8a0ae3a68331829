"""Files that are what they should be pass: of every type, of other programs, of other arithmetics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fastconv import convert
from fastconv.errors import PlanError
from fastconv.plan.file_types import FILE_TYPES
from fastconv.verification.verify import verify
from tests import imatrices, models
from tests.verification.conftest import SHAPE
from tests.verification.gguf_parts import GgufParts


@pytest.fixture(scope="session")
def imatrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    sizes = {
        "attn_q": 256,
        "attn_k": 256,
        "attn_v": 256,
        "attn_output": 256,
        "ffn_gate": 256,
        "ffn_up": 256,
        "ffn_down": 768,
    }
    shapes = {
        f"blk.{layer}.{name}.weight": (256, width) for layer in range(SHAPE.n_layer) for name, width in sizes.items()
    }
    imatrices.write_gguf(path, imatrices.random_entries(shapes))
    return path


def was_converted(model: Path, path: Path, **options: Any) -> bool:
    """False where the plan is refused: a type that needs an importance matrix, or that only decodes."""
    try:
        convert(model, path, **options)
    except PlanError as error:
        if "needs an importance matrix" in error.what or "cannot be written" in error.what:
            return False
        raise
    return True


@pytest.mark.parametrize("outtype", FILE_TYPES)
def test_every_type(outtype: str, model: Path, adapter: Path, imatrix: Path, tmp_path: Path) -> None:
    path = tmp_path / "plain.gguf"
    if was_converted(model, path, outtype=outtype, lora=adapter):
        found = verify(path, against=model, lora=adapter)
        assert found.is_fine, (found.findings, found.off)
        assert {check.state for check in found.tensors} == {"exact"}
        assert verify(path).is_fine
        assert sum(check.delta_share is not None for check in found.tensors) == 4
    path = tmp_path / "weighted.gguf"
    if not FILE_TYPES[outtype].is_float and was_converted(model, path, outtype=outtype, imatrix=imatrix):
        found = verify(path, against=model, imatrix=imatrix)
        assert found.is_fine, (found.findings, found.off)
        assert {check.state for check in found.tensors} == {"exact"}
        found = verify(path, against=model)
        assert found.is_fine, [(check.name, check.type, check.reason) for check in found.off]
        assert any("importance matrix" in note for note in found.notes)


@pytest.mark.parametrize("outtype", ["f16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"])
def test_quantized_by_the_gguf_package(
    outtype: str, model: Path, converted: Callable[..., Path], tmp_path: Path
) -> None:
    """Data, types and keys written by gguf's own writer and quantizer; the f32 rows are read by it too."""
    reader = gguf.GGUFReader(converted("f32"))
    kind = gguf.GGMLQuantizationType[outtype.upper()]
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    for key, raw in GgufParts.read(converted("f32")).keys.items():
        if key != "general.architecture":
            value = reader.fields[key].contents()
            types = reader.fields[key].types
            writer.add_key_value(key, value, types[0], types[1] if len(types) > 1 else None)
        assert raw
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        if data.ndim == 2:
            writer.add_tensor(tensor.name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = verify(tmp_path / "theirs.gguf", against=model)
    assert found.is_fine, (found.findings, found.off)
    assert {check.state for check in found.tensors} == {"exact"}


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
@pytest.mark.parametrize("outtype", ["f32", "q8_0", "q4_0", "q4_k_m"])
def test_merged_elsewhere(outtype: str, dtype: str, model: Path, adapter: Path, tmp_path: Path) -> None:
    """Merged in float64, rounded to the type of a checkpoint, converted from there, as PEFT and export-lora do."""
    from fastconv.checkpoint.open import open_checkpoint

    tensors = models.random_tensors(SHAPE)
    factors = {
        name: tensor.numpy().astype(np.float64)
        for name, tensor in open_checkpoint(adapter / "adapter_model.safetensors").tensors.items()
    }
    for name in tensors:
        a = factors.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if a is not None:
            b = factors[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
            tensors[name] = (tensors[name] + 2.0 * (b @ a)).astype(np.float32)
    models.write_hf(tmp_path / "merged", SHAPE, dtype=dtype, tensors=tensors)
    convert(tmp_path / "merged", tmp_path / "merged.gguf", outtype=outtype)
    found = verify(tmp_path / "merged.gguf", against=model, lora=adapter)
    assert found.is_fine, [(check.name, check.reason) for check in found.off]
    forgotten = verify(tmp_path / "merged.gguf", against=model)
    assert len(forgotten.off) == 4


def test_source_of_any_format(model: Path, converted: Callable[..., Path], tmp_path: Path) -> None:
    """Blocks that were kept, decoded and encoded anew, from GGUF and GGJT."""
    convert(model, tmp_path / "v1.bin", to="ggjt-v1", outtype="q4_0")
    convert(tmp_path / "v1.bin", tmp_path / "repacked.gguf", outtype="q4_0")
    assert verify(tmp_path / "repacked.gguf", against=tmp_path / "v1.bin").is_fine
    convert(converted("q8_0"), tmp_path / "anew.gguf", outtype="q4_0")
    found = verify(tmp_path / "anew.gguf", against=converted("q8_0"))
    assert found.is_fine
    assert {check.state for check in found.tensors} == {"exact"}
    assert found.tensors == verify(tmp_path / "anew.gguf", against=converted("q8_0"), threads=3).tensors


@pytest.mark.parametrize("target", ["gguf", "ggjt"])
def test_vocabulary_alone(target: str, model: Path, tmp_path: Path) -> None:
    convert(model, tmp_path / "vocabulary", to=target, vocab_only=True)
    assert verify(tmp_path / "vocabulary").is_fine
    found = verify(tmp_path / "vocabulary", against=model)
    assert found.is_fine, found.findings


def test_rows_that_are_cut_into_tiles(tmp_path: Path) -> None:
    """A row longer than a tile, one longer than what a thread takes on, and tensors of less than a block."""
    shape = models.LlamaShape(n_embd=64, n_ff=70_016, n_layer=1, n_head=4, n_head_kv=2)
    models.write_hf(tmp_path / "wide", shape)
    for outtype in ("q8_0", "f16"):
        path = tmp_path / f"{outtype}.gguf"
        convert(tmp_path / "wide", path, outtype=outtype)
        found = verify(path, against=tmp_path / "wide", threads=2)
        assert found.is_fine
        assert {check.state for check in found.tensors} == {"exact"}
        file = GgufParts.read(path)
        at = len(file.part("blk.0.ffn_down.weight").data) - 5
        file.part("blk.0.ffn_down.weight").data[at] ^= 32
        [off] = verify(file.write(tmp_path / "flipped.gguf"), against=tmp_path / "wide").off
        assert off.name == "blk.0.ffn_down.weight"
        assert "row 63, column 69984" in off.reason


def test_figures_are_those_of_numpy(model: Path, converted: Callable[..., Path]) -> None:
    truth = {tensor.name: np.array(tensor.data, np.float64) for tensor in gguf.GGUFReader(converted("f32")).tensors}
    stored = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(converted("q4_0")).tensors}
    for check in verify(converted("q4_0"), against=model).tensors:
        x, y = truth[check.name].ravel(), stored[check.name].astype(np.float64).ravel()
        assert check.rmse == pytest.approx(np.sqrt(np.mean((x - y) ** 2)), rel=1e-5)
        assert check.max_error == pytest.approx(np.abs(x - y).max(), rel=1e-5)
        assert check.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)), abs=3e-6)
        if check.max_error:
            assert check.snr_db == pytest.approx(10 * np.log10((x @ x) / ((x - y) @ (x - y))), abs=1e-3)
            assert check.max_error_at == tuple(divmod(int(np.abs(x - y).argmax()), check.shape[-1]))
