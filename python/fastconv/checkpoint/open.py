"""Opens whatever the user names: decides by content what a file is, and by names which files make up a folder's model.

Knows the formats' marks and the usual file names; the readers know the rest.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from fastconv.checkpoint import marks
from fastconv.checkpoint.checkpoint import Checkpoint, FileContents
from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.shard_index import (
    ShardSet,
    find_meta_parts,
    find_shards,
    is_meta_part,
    merge_shards,
    read_index,
    shard_stem,
)
from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError, system_errors_told
from fastconv.paths import exists, is_folder

# Weight files of a folder, the preferred first: stem, suffix.
_FAMILIES = (("model", ".safetensors"), ("pytorch_model", ".bin"))
_LOOKED_FOR = "model*.safetensors, pytorch_model*.bin or consolidated.NN.pth"
_LIT_MODEL = "lit_model.pth"
# What Lit-GPT calls trained adapters: opened to be told what they are.
_LIT_ADAPTERS = (".pth.lora", ".pth.adapter", ".pth.adapter_v2")
# Beside a model's weights in many folders, but no weights of a model.
_NOT_WEIGHTS = (
    "adapter_",
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "tokenizer",
)


@system_errors_told()
def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder or file. No tensor data is read; every header is checked.

    A folder's safetensors are preferred to its .bin files, and those to Meta's consolidated.NN.pth. One shard or part
    of several stands for all of them. Raises CheckpointError if there is nothing to open, or something breaks a rule.
    """
    path = os.fspath(path)
    if is_folder(path):
        return _open_directory(path)
    if not exists(path):
        raise CheckpointError("does not exist", file=path)
    directory, name = os.path.split(path)
    directory = directory or "."
    if is_meta_part(name):
        return _open_meta(path, directory, find_meta_parts(directory, sorted(os.listdir(directory))))
    family = shard_stem(name)
    if family and family[1] in (".safetensors", ".bin", ".gguf"):
        find = find_shards if family[1] == ".gguf" else _find_family
        shards = find(directory, sorted(os.listdir(directory)), *family)
        if shards is not None and name in shards.files:
            return _open_shards(path, directory, shards)
    return _open_file(path, directory)


def _open_directory(path: str) -> Checkpoint:
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise CheckpointError(f"cannot be listed ({error.strerror})", file=path) from None
    for stem, suffix in _FAMILIES:
        shards = _find_family(path, names, stem, suffix)
        if shards is not None and _LIT_MODEL in names:
            raise CheckpointError(
                f"holds both {_LIT_MODEL} and {shards.files[0]}",
                file=path,
                fix="name the file to read, or give --checkpoint-name",
            )
        if shards is not None:
            return _open_shards(path, path, shards)
    parts = find_meta_parts(path, names)
    if parts:
        return _open_meta(path, path, parts)
    # A model under another name, as long as there is no doubt which.
    for suffixes in ((".safetensors",), (".bin", ".pth", ".pt"), _LIT_ADAPTERS):
        others = [n for n in names if n.endswith(suffixes) and not n.startswith(_NOT_WEIGHTS)]
        if len(others) > 1:
            raise CheckpointError(
                "holds several weight files",
                file=path,
                found=", ".join(others[:4]),
                fix="name the one to read",
            )
        if others:
            return _open_file(os.path.join(path, others[0]), path)
    raise CheckpointError(
        "holds no weights",
        file=path,
        found=", ".join(names[:6]) or "an empty folder",
        expected=_LOOKED_FOR,
        fix="this is an adapter: give it with --lora" if any(map(_is_adapter, names)) else None,
    )


def _is_adapter(name: str) -> bool:
    return name.startswith("adapter_model.")


def _find_family(directory: str, names: list[str], stem: str, suffix: str) -> ShardSet | None:
    index_name = f"{stem}{suffix}.index.json"
    single = f"{stem}{suffix}"
    shards = find_shards(directory, names, stem, suffix) if index_name not in names else None
    if index_name in names:
        shards = read_index(directory, index_name)
    if single not in names or (shards is not None and single in shards.files):
        return shards
    if shards is None:
        return ShardSet(None, (single,), {})
    raise CheckpointError(
        f"holds both {single} and shards of it",
        file=directory,
        fix="keep one of them, or name the file to read",
    )


def _open_shards(path: str, directory: str, shards: ShardSet) -> Checkpoint:
    files = tuple(os.path.join(directory, name) for name in shards.files)
    opened = [read_file(file) for file in files]
    formats = sorted({contents.format for contents in opened})
    if len(formats) != 1:
        raise CheckpointError("shards are of different formats", file=directory, found=", ".join(formats))
    tensors = merge_shards(
        directory, shards, {name: found.tensors for name, found in zip(shards.files, opened, strict=True)}
    )
    first, metadata = opened[0], {}
    if formats == ["gguf"]:
        from fastconv.checkpoint.gguf import check_split

        metadata = first.metadata  # the others say only which shard they are
        check_split(files, [contents.metadata for contents in opened], len(tensors))
    else:
        for contents in opened:
            metadata |= contents.metadata
    return _checkpoint(path, directory, files, replace(first, tensors=tensors, metadata=metadata))


def _open_meta(path: str, directory: str, names: tuple[str, ...]) -> Checkpoint:
    files = tuple(os.path.join(directory, name) for name in names)
    parts: list[dict[str, LazyTensor]] = []
    for file in files:
        contents = read_file(file)
        if contents.format != "torch":
            raise CheckpointError("is no PyTorch checkpoint", file=file, found=contents.format)
        tensors = contents.tensors
        if parts and tensors.keys() != parts[0].keys():
            name = min(tensors.keys() ^ parts[0].keys())
            problem = "is missing from this part" if name in parts[0] else "is missing from the first part"
            raise CheckpointError(problem, file=file, tensor=name, fix="download the parts again")
        parts.append(tensors)
    return _checkpoint(path, directory, files, FileContents("torch", parts[0], parts=tuple(parts)))


def _open_file(path: str, directory: str) -> Checkpoint:
    contents = read_file(path)
    if contents.format == "gguf":
        from fastconv.checkpoint.gguf import check_split

        check_split([path], [contents.metadata], len(contents.tensors))
    files = tuple(dict.fromkeys([path, *(file for part in contents.parts for file in _files_of(part))]))
    return _checkpoint(path, directory, files, contents)


def _files_of(tensors: dict[str, LazyTensor]) -> list[str]:
    return list(dict.fromkeys(file for tensor in tensors.values() for file in tensor.files))


def _checkpoint(path: str, directory: str, files: tuple[str, ...], contents: FileContents) -> Checkpoint:
    config: dict[str, Any] = {}
    if contents.format in ("safetensors", "torch"):  # the others carry their own, and may hold a vocabulary alone
        if not contents.tensors:
            raise CheckpointError("holds no tensors", file=path)
        for name in ("config.json", "params.json"):
            if exists(os.path.join(directory, name)):
                config = read_json_object(os.path.join(directory, name))
                break
    return Checkpoint(
        path,
        directory,
        contents.format,
        files,
        contents.tensors,
        config,
        contents.metadata,
        contents.encoded,
        contents.parts,
    )


def read_file(path: str | os.PathLike[str]) -> FileContents:
    """What one file holds. Raises CheckpointError."""
    storage = FileStorage(path)
    mark = storage.read(0, min(64, storage.size))
    if mark[:4] == marks.ZIP:
        from fastconv.checkpoint.torch_zip import read_torch_zip

        return FileContents("torch", read_torch_zip(storage))
    if mark[:4] == marks.GGUF:
        from fastconv.checkpoint.gguf import read_gguf

        return FileContents("gguf", *read_gguf(storage))
    if mark[:4] in marks.GGML_FAMILIES or mark[:4] in marks.GGML_OTHERS:
        from fastconv.checkpoint.ggjt import read_ggjt

        tensors, header, parts = read_ggjt(storage)
        return FileContents("ggjt", tensors, header, parts=parts)
    if mark.startswith(marks.TORCH_LEGACY):
        from fastconv.checkpoint.torch_legacy import read_torch_legacy

        return FileContents("torch", read_torch_legacy(storage))
    if mark[8:9] == b"{" or (len(mark) > 8 and os.fspath(path).endswith(".safetensors")):
        from fastconv.checkpoint.safetensors import read_safetensors

        tensors, metadata = read_safetensors(storage)
        return FileContents("safetensors", tensors, dict(metadata))
    if mark.startswith(marks.GIT_LFS):
        raise CheckpointError(
            "is a Git LFS pointer, not the file itself",
            file=storage.path,
            fix="run git lfs pull",
        )
    raise CheckpointError(
        "is no checkpoint",
        file=storage.path,
        found=f"first bytes {mark[:8]!r}" if mark else "an empty file",
        expected="safetensors, PyTorch, GGUF or GGJT",
    )
