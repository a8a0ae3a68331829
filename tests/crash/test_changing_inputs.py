"""Inputs that shrink or change while a conversion reads them: one error that names them, and no output."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastconv import FastconvError, convert
from fastconv.conversion import execute, prepare
from fastconv.request import ConvertRequest
from tests import models
from tests.e2e.conftest import write_adapter

SHAPE = models.LlamaShape(n_vocab=320, n_embd=256, n_ff=16384, n_layer=2)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 50 MB that takes no room on the disk: all weights are 0."""
    folder = tmp_path_factory.mktemp("changing")
    models.write_hf(
        folder / "model", SHAPE, tensors={"none": models.random_tensors(models.LlamaShape())["lm_head.weight"]}
    )
    write_adapter(folder / "adapter", SHAPE)
    header, end = {}, 0
    for name, shape in SHAPE.tensor_shapes().items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    weights = folder / "model" / "model.safetensors"
    weights.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(weights, 8 + len(text) + end)
    return folder


def shrink(path: Path) -> None:
    os.truncate(path, 1 << 16)


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


def write(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def replace_by_other(path: Path) -> None:
    """Whoever has the file open does not notice, and need not."""
    other = path.with_name("other")
    other.write_bytes(b"other")
    os.replace(other, path)


INPUTS = ("model/model.safetensors", "adapter/adapter_model.safetensors")


@pytest.fixture(params=INPUTS)
def path(request: pytest.FixtureRequest, source: Path, tmp_path: Path) -> Iterator[Path]:
    """One of the inputs, which is as it was afterwards."""
    path, kept = source / request.param, tmp_path / "kept"
    os.link(path, kept)
    status, data = os.stat(path), path.read_bytes()
    yield path
    with open(kept, "r+b") as file:
        file.write(data[: 1 << 17])
        file.truncate(status.st_size)
        file.seek(-1, os.SEEK_END)
        file.write(data[-1:])
    os.utime(kept, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(kept, path)


def request(source: Path, out: Path) -> ConvertRequest:
    adapters = ((str(source / "adapter"), 1.0),)
    return ConvertRequest(str(source / "model"), outtypes=("q8_0",), outfile=str(out), adapters=adapters, threads=2)


@pytest.mark.parametrize("change", [shrink, touch, write])
def test_a_change_after_the_headers_were_read(
    source: Path, tmp_path: Path, path: Path, change: Callable[[Path], None]
) -> None:
    prepared = prepare(request(source, tmp_path / "out.gguf"))
    change(path)
    with pytest.raises(FastconvError, match="changed while it was read") as error:
        execute(prepared)
    assert error.value.file == str(path)
    assert os.listdir(tmp_path) == ["kept"]


def test_a_file_replaced_by_another_is_still_the_one_that_was_opened(source: Path, tmp_path: Path, path: Path) -> None:
    prepared = prepare(request(source, tmp_path / "out.gguf"))
    replace_by_other(path)
    execute(prepared)
    assert (tmp_path / "out.gguf").stat().st_size == prepared.files[0].laid_out.size


@pytest.mark.parametrize("change", [shrink, touch, write, replace_by_other])
@pytest.mark.parametrize("moment", range(3))
def test_a_change_at_any_moment(
    source: Path, tmp_path: Path, path: Path, change: Callable[[Path], None], moment: int
) -> None:
    timer = threading.Timer(random.Random(moment).uniform(0, 0.1), change, [path])
    timer.start()
    try:
        convert(source / "model", tmp_path / "out.gguf", outtype="q8_0", lora=source / "adapter", threads=2)
    except FastconvError as error:
        refusal = str(error)
    else:
        refusal = ""
    timer.join()
    assert (tmp_path / "out.gguf").exists() == (refusal == "")
    assert refusal == "" or str(path.parent) in refusal
    assert set(os.listdir(tmp_path)) <= {"kept", "out.gguf"}
