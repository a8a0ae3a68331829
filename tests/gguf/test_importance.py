"""Importance matrices held against a model, before anything is written; what they do is in test_quantized.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from fastconv import convert
from fastconv.conversion import ConversionResult, prepare
from fastconv.errors import PlanError, UsageError
from fastconv.request import ConvertRequest
from tests import imatrices
from tests.e2e.conftest import gguf_tensors
from tests.gguf.quantized_cases import CASES
from tests.kernels import ggml
from tests.models import LlamaShape, write_hf

SHAPE = LlamaShape(n_embd=256, n_ff=512, n_layer=1, n_head=4, n_head_kv=4)
MATRICES = {
    **{f"blk.0.{name}.weight": (256, 256) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
    **{f"blk.0.{name}.weight": (512, 256) for name in ("ffn_gate", "ffn_up")},
    "blk.0.ffn_down.weight": (256, 512),
}
Entries = dict[str, tuple[np.ndarray, list[float]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("importance") / "model"
    write_hf(folder, SHAPE)
    return folder


def plan(model: Path, tmp_path: Path, outtype: str, entries: Entries | None, **options: Any) -> None:
    """Up to where writing would begin."""
    if entries is not None:
        imatrices.write_gguf(tmp_path / "imatrix.gguf", entries)
        options["imatrix"] = str(tmp_path / "imatrix.gguf")
    prepare(ConvertRequest(str(model), outtypes=(outtype,), outfile=str(tmp_path / "out.gguf"), **options))


@pytest.mark.parametrize(
    ("outtype", "message"),
    [
        ("iq2_xxs", r"tensor blk\.0\.attn_k\.weight: iq2_xxs needs an importance matrix; give --imatrix"),
        ("q2_k_s", r"blk\.0\.attn_k\.weight: q2_k needs an importance matrix"),
        ("iq3_xxs", r"blk\.0\.attn_k\.weight: iq2_s needs an importance matrix"),
        ("iq1_m", r"blk\.0\.attn_k\.weight: iq1_m needs an importance matrix"),
    ],
)
def test_types_that_need_one(model: Path, tmp_path: Path, outtype: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(model, tmp_path, outtype, None)


def test_what_is_missing(model: Path, tmp_path: Path) -> None:
    entries = imatrices.random_entries(MATRICES)
    for name in list(entries)[:4]:
        del entries[name]
    message = (
        r"imatrix\.gguf: lacks the importance of tensors of this model: found nothing on blk\.0\.attn_\w+\.weight, "
        r"blk\.0\.attn_\w+\.weight, blk\.0\.attn_\w+\.weight and 1 more; compute it with this model"
    )
    with pytest.raises(PlanError, match=message):
        plan(model, tmp_path, "q4_k_m", entries)
    # Its bytes depend on no importance.
    plan(model, tmp_path, "q8_0", entries)


def test_embeddings_that_cannot_do_without(model: Path, tmp_path: Path) -> None:
    """llama-quantize ends in an assertion here."""
    entries = imatrices.random_entries(MATRICES)
    with pytest.raises(PlanError, match=r"found nothing on token_embd\.weight"):
        plan(model, tmp_path, "q4_k_m", entries, token_embedding_type="iq2_xs")


def test_surplus(model: Path, tmp_path: Path) -> None:
    entries = imatrices.random_entries(MATRICES | {f"blk.{i}.attn_q.weight": (256, 256) for i in range(1, 6)})
    message = (
        r"imatrix\.gguf: holds the importance of tensors that the model does not have; is it another model's\?: found "
        r"blk\.1\.attn_q\.weight, blk\.2\.attn_q\.weight, blk\.3\.attn_q\.weight and 2 more"
    )
    with pytest.raises(PlanError, match=message):
        plan(model, tmp_path, "q4_0", entries)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "blk.0.attn_q.weight",
            (1, 512),
            r"attn_q\.weight: has an importance of another length.*: found 512 values, 1 cou",
        ),
        ("blk.0.ffn_down.weight", (1, 256), "found 256 values, 1 counts, expected 512 values"),
        ("blk.0.attn_q.weight", (2, 128), "found 256 values, 2 counts, expected 256 values"),
    ],
)
def test_wrong_lengths(model: Path, tmp_path: Path, name: str, shape: tuple[int, int], message: str) -> None:
    entries: Entries = imatrices.random_entries(MATRICES)
    entries[name] = (np.ones(shape, np.float32), [1.0] * shape[0])
    with pytest.raises(PlanError, match=message):
        plan(model, tmp_path, "q4_k_m", entries)


def test_embeddings_with_another_length_are_not_weighted(model: Path, tmp_path: Path) -> None:
    entries: Entries = imatrices.random_entries(MATRICES)
    weights = np.arange(1, 257, dtype=np.float32)
    contents = []
    for embedding in (None, np.ones((1, 320), np.float32), weights[None]):
        if embedding is not None:
            entries["token_embd.weight"] = (embedding, [2.0])
        imatrices.write_dat(tmp_path / "imatrix.dat", entries)
        path = tmp_path / f"{len(contents)}.gguf"
        convert(model, path, outtype="q4_0", imatrix=tmp_path / "imatrix.dat")
        contents.append(gguf_tensors(path)["token_embd.weight"][2])
    assert contents[0] == contents[1] != contents[2]


def test_only_quantized_files_take_one(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="--imatrix changes quantized types only: found f16, expected one such as q4_k_m"
    ):
        plan(model, tmp_path, "f16", imatrices.random_entries(MATRICES))


def test_it_is_never_replaced(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    imatrices.write_gguf(path, imatrices.random_entries(MATRICES))
    before = path.read_bytes()
    with pytest.raises(Exception, match="is an input of this run"):
        convert(model, path, outtype="q4_0", imatrix=path, overwrite=True)
    assert path.read_bytes() == before


def test_several_types_from_one_read(model: Path, tmp_path: Path) -> None:
    """Those that are weighted and those that are not, with the bytes that each gets alone."""
    imatrices.write_gguf(tmp_path / "imatrix.gguf", imatrices.random_entries(MATRICES))
    types = ["q4_0", "f16", "q8_0", "q5_1", "iq4_xs"]
    convert(model, tmp_path / "{type}.gguf", outtype=types, imatrix=tmp_path / "imatrix.gguf")
    for outtype in types:
        options = {} if outtype == "f16" else {"imatrix": tmp_path / "imatrix.gguf"}
        convert(model, tmp_path / "alone.gguf", outtype=outtype, overwrite=True, **options)
        assert (tmp_path / "alone.gguf").read_bytes() == (tmp_path / f"{outtype}.gguf").read_bytes(), outtype


def test_blocks_are_ggmls(model: Path, tmp_path: Path) -> None:
    entries = imatrices.random_entries(MATRICES)
    imatrices.write_gguf(tmp_path / "imatrix.gguf", entries)
    convert(model, tmp_path / "f32.gguf", outtype="f32")
    convert(model, tmp_path / "q.gguf", outtype="q4_1", imatrix=tmp_path / "imatrix.gguf")
    written, unquantized = gguf_tensors(tmp_path / "q.gguf"), gguf_tensors(tmp_path / "f32.gguf")
    for name, (sums, counts) in entries.items():
        type_name, shape, data = written[name]
        weights = sums[0] / np.float32(counts[0])
        values = np.frombuffer(unquantized[name][2], np.float32).reshape(shape)
        assert data == ggml.quantize(values, type_name, weights).tobytes(), name
        assert data != ggml.quantize(values, type_name).tobytes(), name


def test_experts_that_were_never_used_are_told(tmp_path: Path) -> None:
    [case] = [case for case in CASES if case.name == "experts"]
    case.write(tmp_path / case.source)
    case.write_imatrices(tmp_path)
    imatrix = tmp_path / "imatrix.gguf"
    result: ConversionResult = convert(tmp_path / case.source, tmp_path / "o.gguf", outtype="q4_0", imatrix=imatrix)
    told = (
        f"{imatrix}: 3 expert matrices in 3 tensors were never used when it was computed; all their columns count alike"
    )
    assert told in result.notes


def test_long_texts_are_cut_as_llama_quantize_cuts_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "ü" * 70 + ".gguf"
    entries = imatrices.random_entries(MATRICES)
    imatrices.write_gguf(Path(name), entries, datasets=("x" * 200, "second"), chunks=9)
    convert(model, "o.gguf", outtype="q4_0", imatrix=name)
    fields = gguf.GGUFReader("o.gguf").fields
    assert bytes(fields["quantize.imatrix.file"].parts[-1]) == name.encode()[:127]
    assert bytes(fields["quantize.imatrix.dataset"].parts[-1]) == b"x" * 127
    assert fields["quantize.imatrix.entries_count"].contents() == len(entries)
    assert fields["quantize.imatrix.chunks_count"].contents() == 9


def test_chunks_that_are_unknown_are_not_stated(model: Path, tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(imatrices.dat_bytes(imatrices.random_entries(MATRICES), trailer=b""))
    convert(model, tmp_path / "o.gguf", outtype="q4_0", imatrix=tmp_path / "i.dat")
    fields = gguf.GGUFReader(tmp_path / "o.gguf").fields
    assert [name for name in fields if "imatrix" in name] == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]
