"""Every parser of files from strangers as a function of bytes, for fuzzers: it returns or raises a FastconvError.

Knows what each parser needs beside its file, not how inputs are made.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fastconv.adapter.config import read_lora_config
from fastconv.adapter.lit_settings import LitLoraOptions, read_settings
from fastconv.adapter.names import parse_name
from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.litgpt.config import read_lit_config
from fastconv.architecture.llama import LLAMA
from fastconv.architecture.meta_params import as_hf_config
from fastconv.architecture.registry import spec_for
from fastconv.checkpoint.checkpoint import Checkpoint, FileContents
from fastconv.checkpoint.imatrix import read_imatrix
from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import read_file
from fastconv.checkpoint.shard_index import merge_shards, read_index
from fastconv.checkpoint.storage import FileStorage
from fastconv.checkpoint.tensor_globals import Record
from fastconv.checkpoint.tensor_pickle import read_tensor_pickle
from fastconv.errors import FastconvError
from fastconv.layout.sha256_file import sum_beside
from fastconv.verification.structure import broken_rules
from fastconv.vocab.embedded import embedded_vocabulary
from fastconv.vocab.load import load_vocabulary

N_VOCAB = 320


class Folder:
    """A folder of this process in memory; files are written over, never made anew."""

    def __init__(self) -> None:
        shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.path = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shared))

    def put(self, name: str, data: bytes) -> str:
        path = os.path.join(self.path, name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        return path


@functools.cache
def folder(target: str) -> Folder:
    return Folder()


def remove_folders() -> None:
    for target in TARGETS:
        shutil.rmtree(folder(target).path, ignore_errors=True)
    folder.cache_clear()


def _contents(data: bytes, name: str) -> tuple[str, FileContents]:
    path = folder(name).put("model", data)
    return path, read_file(path)


def _inside(tensors: Mapping[str, LazyTensor], size: int) -> None:
    for tensor in tensors.values():
        for piece in tensor.pieces:
            assert 0 <= piece.offset <= size, tensor
        tensor.native()  # maps the file and checks every piece against its size


def safetensors(data: bytes) -> None:
    path = folder("safetensors").put("model.safetensors", data)
    _inside(read_file(path).tensors, len(data))


def torch_zip(data: bytes) -> None:
    _, contents = _contents(b"PK\x03\x04" + data[4:], "torch_zip")
    _inside(contents.tensors, len(data))


@functools.cache
def _storage() -> FileStorage:
    return FileStorage(folder("pickle").put("storages", bytes(4096)))


RECORDS = {"0": Record(0, 128), "1": Record(128, 256), "2": Record(512, 2), "weird/key": Record(1024, 1024)}


def pickle(data: bytes) -> None:
    for tensor in read_tensor_pickle(data, RECORDS, _storage()).values():
        assert 0 <= tensor.pieces[0].offset <= 4096


def gguf(data: bytes) -> None:
    path, contents = _contents(b"GGUF" + data[4:], "gguf")
    _inside(contents.tensors, len(data))
    checkpoint = Checkpoint(
        path, os.path.dirname(path), "gguf", (path,), contents.tensors, {}, contents.metadata, contents.encoded, ()
    )
    broken_rules(checkpoint)
    embedded_vocabulary(checkpoint, N_VOCAB)


def ggjt(data: bytes) -> None:
    magic = data[:4] if data[:4] in (b"lmgg", b"fmgg", b"tjgg") else b"tjgg"
    path, contents = _contents(magic + data[4:], "ggjt")
    _inside(contents.tensors, len(data))
    checkpoint = Checkpoint(
        path, os.path.dirname(path), "ggjt", (path,), contents.tensors, {}, contents.metadata, {}, contents.parts
    )
    try:
        canonical_model(checkpoint)
    except FastconvError:
        embedded_vocabulary(checkpoint, N_VOCAB)


def imatrix(data: bytes) -> None:
    for entry in read_imatrix(folder("imatrix").put("imatrix", data)).entries.values():
        entry.importance(len(entry.counts), entry.n_values // len(entry.counts)).sums.native()


def index(data: bytes) -> None:
    here = folder("index")
    here.put("a.safetensors", b"")
    here.put("model.safetensors.index.json", data)
    shards = read_index(str(here.path), "model.safetensors.index.json")
    assert set(shards.files) <= set(os.listdir(here.path))
    merge_shards(str(here.path), shards, {name: {} for name in shards.files})


def config(data: bytes) -> None:
    found = read_json_object(folder("config").put("config.json", data))
    spec_for(found, "config.json").hyperparameters(found)


def params(data: bytes) -> None:
    found = read_json_object(folder("params").put("params.json", data))
    LLAMA.hyperparameters(as_hf_config(found, lambda _: (N_VOCAB, 64), None))


MODULES = ("model.layers.0.self_attn.q_proj", "model.embed_tokens", "lm_head")


def adapter_config(data: bytes) -> None:
    here = folder("adapter_config")
    here.put("adapter_config.json", data)
    found = read_lora_config(str(here.path))
    for module in MODULES:
        found.scale_of(module)


def adapter_name(data: bytes) -> None:
    parse_name(data.decode("utf-8", "replace"))


def lit_yaml(data: bytes) -> None:
    here = folder("lit_yaml")
    here.put("model_config.yaml", data)
    here.put("hyperparameters.yaml", data)
    try:
        settings = read_lit_config(str(here.path))
        assert settings is not None
        _ = (settings.n_ff, settings.n_query_groups, settings.head_size, settings.size("n_layer"))
    except FastconvError:
        read_settings(str(here.path / "lit_model.pth.lora"), LitLoraOptions())


def tokenizer_json(data: bytes) -> None:
    here = folder("tokenizer_json")
    here.put("tokenizer.json", data)
    load_vocabulary(here.path, N_VOCAB, "bpe", {})


def tokenizer_config(data: bytes) -> None:
    from tests.fuzz.seeds import TOKENIZER_JSON

    here = folder("tokenizer_config")
    if not (here.path / "tokenizer.json").exists():
        here.put("tokenizer.json", TOKENIZER_JSON())
    here.put("tokenizer_config.json", data)
    load_vocabulary(here.path, N_VOCAB, "bpe", {})


def sentencepiece(data: bytes) -> None:
    here = folder("sentencepiece")
    here.put("tokenizer.model", data)
    load_vocabulary(here.path, 1 << 15, "spm", {})


def checksum(data: bytes) -> None:
    sum_beside(folder("checksum").put("model.sha256", data).removesuffix(".sha256"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        safetensors,
        torch_zip,
        pickle,
        gguf,
        ggjt,
        imatrix,
        index,
        config,
        params,
        adapter_config,
        adapter_name,
        lit_yaml,
        tokenizer_json,
        tokenizer_config,
        sentencepiece,
        checksum,
    )
}


def survives(target: str, data: bytes) -> bool:
    """Whether the parser took the input. Raises what is a finding: any error that is not one clear line."""
    try:
        TARGETS[target](data)
    except FastconvError as error:
        line = str(error)
        assert "\n" not in line, line
        assert len(line) < 5000, line[:200]
        line.encode()
        return False
    return True
