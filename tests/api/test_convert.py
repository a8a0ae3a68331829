"""fastconv.convert() and fastconv.open(): what Python can ask for that the command line asks in other words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv.errors import UsageError
from tests import models
from tests.e2e.conftest import gguf_tensors, write_adapter

SHAPE = models.LlamaShape(n_layer=1)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    models.write_hf(tmp_path / "model", SHAPE)
    write_adapter(tmp_path / "adapter", SHAPE)
    return tmp_path / "model"


def test_tensors_are_lazy_and_exact(model: Path) -> None:
    opened = fastconv.open(model)
    expected = models.random_tensors(SHAPE)
    assert set(opened.tensors) == set(expected)
    for name, tensor in opened.tensors.items():
        assert (tensor.dtype, tensor.shape) == ("bf16", expected[name].shape)
        assert np.array_equal(tensor.numpy(), expected[name])


def test_names_are_listed_before_they_are_imported() -> None:
    script = "import fastconv; assert {*fastconv.__all__} <= {*dir(fastconv)}, dir(fastconv)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_one_adapter_needs_no_list(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    written = []
    for index, lora in enumerate((adapter, str(adapter), [adapter], [(adapter, 1.0)], (str(adapter),))):
        result = fastconv.convert(model, tmp_path / f"{index}.gguf", outtype="q8_0", lora=lora)
        assert [summary.n_tensors for summary in result.adapters] == [14]
        written.append((tmp_path / f"{index}.gguf").read_bytes())
    assert all(data == written[0] for data in written)


def test_adapters_add_up(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    fastconv.convert(model, tmp_path / "twice.gguf", outtype="f32", lora=[(adapter, 0.5), adapter])
    fastconv.convert(model, tmp_path / "once.gguf", outtype="f32", lora=[(adapter, 1.5)])
    twice, once = gguf_tensors(tmp_path / "twice.gguf"), gguf_tensors(tmp_path / "once.gguf")
    for name in once:
        values = [np.frombuffer(tensors[name][2], np.float32) for tensors in (twice, once)]
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("outtype", ["q4_0,f16", "Q4_0, f16", ("q4_0", "f16"), ["Q4_0", "F16"]])
def test_several_types(model: Path, tmp_path: Path, outtype: str | list[str]) -> None:
    result = fastconv.convert(model, tmp_path / "m-{type}.gguf", outtype=outtype)
    assert [output.path for output in result.outputs] == [str(tmp_path / f"m-{name}.gguf") for name in ("q4_0", "f16")]
    assert all(Path(output.path).stat().st_size == output.size for output in result.outputs)


def test_progress_ends_at_the_total(model: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    result = fastconv.convert(model, tmp_path / "m.gguf", progress=lambda *numbers: calls.append(numbers))
    assert calls[-1] == (result.bytes_in, result.bytes_in)
    assert calls == sorted(calls)


def test_an_exception_in_progress_leaves_nothing(model: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    before = sorted(tmp_path.iterdir())
    with pytest.raises(StopError):
        fastconv.convert(model, tmp_path / "m.gguf", progress=stop)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "unknown target: found onnx"),
        ({"outtype": []}, "no output type"),
        ({"outtype": ["q4_0", "Q4_0"]}, "given twice"),
        ({"threads": 0}, "--concurrency is out of range: found 0"),
        ({"nonfinite": "drop"}, "unknown --nonfinite: found drop"),
        ({"vocab_type": "wordpiece"}, "unknown --vocabtype: found wordpiece"),
        ({"vocab_only": True, "lora": ["x"]}, "--vocab-only writes no tensors"),
        ({"vocab_only": True, "to": "hf"}, "--vocab-only is for GGUF and GGJT: found --to hf"),
        ({"vocab_only": True, "to": "litgpt"}, "--vocab-only is for GGUF and GGJT: found --to litgpt"),
        ({"lora": ""}, "--lora is an empty name"),
        ({"lora": "a\0b"}, r"--lora is no name that a file can have: found 'a\\x00b'"),
        ({"imatrix": "\ud800"}, r"--imatrix is no name that a file can have: found '\\ud800'"),
        ({"max_memory": 1 << 70}, "--max-memory is out of range"),
    ],
)
def test_wrong_options(model: Path, tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fastconv.convert(model, tmp_path / "m.gguf", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "m.gguf").exists()


def test_names_of_outputs_that_no_file_can_have(model: Path, tmp_path: Path) -> None:
    for name in ("a\0b", "\ud800"):
        for target in ("gguf", "hf", "litgpt"):
            with pytest.raises(UsageError, match="--outfile is no name that a file can have"):
                fastconv.convert(model, f"{tmp_path}/{name}", to=target)
