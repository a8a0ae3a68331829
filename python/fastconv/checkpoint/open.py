"""Opens whatever the user names: decides by content what a file is, and by names which files make up a folder's model.

Knows the formats' marks and the usual file names; the readers know the rest.
"""

from __future__ import annotations

import os
from typing import Any

from fastconv.checkpoint import marks
from fastconv.checkpoint.checkpoint import Checkpoint
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
from fastconv.errors import CheckpointError

# Weight files of a folder, the preferred first: stem, suffix.
_FAMILIES = (("model", ".safetensors"), ("pytorch_model", ".bin"))
_LOOKED_FOR = "model*.safetensors, pytorch_model*.bin or consolidated.NN.pth"
# Beside a model's weights in many folders, but no weights of a model.
_NOT_WEIGHTS = (
    "adapter_",
    "training_args",
    "optimizer",
    "scheduler",
    "rng_state",
    "tokenizer",
)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a folder or file. No tensor data is read; every header is checked.

    A folder's safetensors are preferred to its .bin files, and those to Meta's consolidated.NN.pth. One shard or part
    of several stands for all of them. Raises CheckpointError if there is nothing to open, or something breaks a rule.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return _open_directory(path)
    if not os.path.exists(path):
        raise CheckpointError("does not exist", file=path)
    directory, name = os.path.split(path)
    directory = directory or "."
    if is_meta_part(name):
        return _open_meta(path, directory, find_meta_parts(directory, sorted(os.listdir(directory))))
    family = shard_stem(name)
    if family and family[1] in (".safetensors", ".bin"):
        shards = _find_family(directory, sorted(os.listdir(directory)), *family)
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
        if shards is not None:
            return _open_shards(path, path, shards)
    parts = find_meta_parts(path, names)
    if parts:
        return _open_meta(path, path, parts)
    # A model under another name, as long as there is no doubt which.
    for suffixes in ((".safetensors",), (".bin", ".pth", ".pt")):
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
    )


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
    opened: dict[str, dict[str, LazyTensor]] = {}
    formats: list[str] = []
    metadata: dict[str, Any] = {}
    for name in shards.files:
        kind, opened[name], more, _ = read_file(os.path.join(directory, name))
        formats.append(kind)
        metadata |= more
    if len(set(formats)) != 1:
        raise CheckpointError(
            "shards are of different formats",
            file=directory,
            found=", ".join(sorted(set(formats))),
        )
    files = tuple(os.path.join(directory, name) for name in shards.files)
    tensors = merge_shards(directory, shards, opened)
    return _checkpoint(path, directory, formats[0], files, tensors, metadata)


def _open_meta(path: str, directory: str, names: tuple[str, ...]) -> Checkpoint:
    files = tuple(os.path.join(directory, name) for name in names)
    parts: list[dict[str, LazyTensor]] = []
    for file in files:
        kind, tensors, _, _ = read_file(file)
        if kind != "torch":
            raise CheckpointError("is no PyTorch checkpoint", file=file, found=kind)
        if parts and tensors.keys() != parts[0].keys():
            name = min(tensors.keys() ^ parts[0].keys())
            problem = "is missing from this part" if name in parts[0] else "is missing from the first part"
            raise CheckpointError(problem, file=file, tensor=name, fix="download the parts again")
        parts.append(tensors)
    return _checkpoint(path, directory, "torch", files, parts[0], {}, tuple(parts))


def _open_file(path: str, directory: str) -> Checkpoint:
    kind, tensors, metadata, parts = read_file(path)
    files = tuple(dict.fromkeys([path, *(file for part in parts for file in _files_of(part))]))
    return _checkpoint(path, directory, kind, files, tensors, metadata, parts)


def _files_of(tensors: dict[str, LazyTensor]) -> list[str]:
    return list(dict.fromkeys(file for tensor in tensors.values() for file in tensor.files))


def _checkpoint(
    path: str,
    directory: str,
    kind: str,
    files: tuple[str, ...],
    tensors: dict[str, LazyTensor],
    metadata: dict[str, Any],
    parts: tuple[dict[str, LazyTensor], ...] = (),
) -> Checkpoint:
    config: dict[str, Any] = {}
    if kind in ("safetensors", "torch"):  # the others carry their own, and may hold a vocabulary alone
        if not tensors:
            raise CheckpointError("holds no tensors", file=path)
        for name in ("config.json", "params.json"):
            if os.path.exists(os.path.join(directory, name)):
                config = read_json_object(os.path.join(directory, name))
                break
    return Checkpoint(path, directory, kind, files, tensors, config, metadata, parts)


def read_file(
    path: str | os.PathLike[str],
) -> tuple[str, dict[str, LazyTensor], dict[str, Any], tuple[dict[str, LazyTensor], ...]]:
    """Format, tensors, metadata and parts of one file; see Checkpoint. Raises CheckpointError."""
    storage = FileStorage(path)
    mark = storage.read(0, min(64, storage.size))
    if mark[:4] == marks.ZIP:
        from fastconv.checkpoint.torch_zip import read_torch_zip

        return "torch", read_torch_zip(storage), {}, ()
    if mark[:4] == marks.GGUF:
        from fastconv.checkpoint.gguf import read_gguf

        return "gguf", *read_gguf(storage), ()
    if mark[:4] in marks.GGML_FAMILIES or mark[:4] in marks.GGML_OTHERS:
        from fastconv.checkpoint.ggjt import read_ggjt

        return "ggjt", *read_ggjt(storage)
    if mark.startswith(marks.TORCH_LEGACY):
        from fastconv.checkpoint.torch_legacy import read_torch_legacy

        return "torch", read_torch_legacy(storage), {}, ()
    if mark[8:9] == b"{" or (len(mark) > 8 and os.fspath(path).endswith(".safetensors")):
        from fastconv.checkpoint.safetensors import read_safetensors

        tensors, metadata = read_safetensors(storage)
        return "safetensors", tensors, dict(metadata), ()
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
