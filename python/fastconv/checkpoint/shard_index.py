"""Which files make up a sharded checkpoint, and whether what they hold is what the index promised.

Knows file names and tensor names; opens nothing but the index.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from fastconv.checkpoint.json_file import read_json_object
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.errors import CheckpointError
from fastconv.paths import exists
from fastconv.record import record

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.\w+)")
_META_PART = re.compile(r"consolidated\.(\d{2})\.pth")


@record
class ShardSet:
    """files: names in the folder, sorted. weight_map: file name by tensor name, {} without an index."""

    index: str | None
    files: tuple[str, ...]
    weight_map: dict[str, str]


def read_index(directory: str, index_name: str) -> ShardSet:
    """The shards that an index names, all of them present. Raises CheckpointError if not, or if the index is malformed.

    A shard is a plain file name: an index cannot lead out of its folder. (A link that someone put into the folder is
    followed: the Hugging Face cache is made of them.)
    """
    path = os.path.join(directory, index_name)
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("has no weight_map", file=path, fix="download it again")
    files: list[str] = []
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name:
            raise CheckpointError(
                "shard name is not a string",
                file=path,
                tensor=tensor,
                found=repr(name)[:80],
            )
        if name not in files[-1:]:
            files.append(name)
    names = sorted(set(files))
    for name in names:
        if name != os.path.basename(name) or any(c in name for c in "/\\:\0") or name in (".", ".."):
            raise CheckpointError("shard lies outside the folder", file=path, found=repr(name)[:200])
        if not exists(os.path.join(directory, name)):
            raise CheckpointError(f"shard {name} is missing", file=path, fix="download or copy it again")
    return ShardSet(path, tuple(names), weight_map)


def find_shards(directory: str, names: list[str], stem: str, suffix: str) -> ShardSet | None:
    """The files stem-00001-of-0000N.suffix, without an index; None if there is none. Raises if some are missing."""
    found: dict[int, list[int]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match and match["stem"] == stem and match["suffix"] == suffix:
            found.setdefault(int(match["count"]), []).append(int(match["number"]))
    if not found:
        return None
    if len(found) > 1:
        raise CheckpointError(
            f"holds shards of {len(found)} different sets",
            file=directory,
            found=", ".join(f"{stem}-*-of-{count:05d}{suffix}" for count in sorted(found)),
            fix="keep one of them",
        )
    [(count, numbers)] = found.items()
    missing = sorted(set(range(1, count + 1)) - set(numbers))
    if missing or len(numbers) != count:
        problem = f"shard {stem}-{missing[0] if missing else 0:05d}-of-{count:05d}{suffix} is missing"
        if not missing:
            problem = f"holds shards that {count} shards cannot have"
        raise CheckpointError(
            problem,
            file=directory,
            found=f"{len(numbers)} shards",
            expected=count,
            fix="download or copy it again",
        )
    return ShardSet(
        None,
        tuple(f"{stem}-{number:05d}-of-{count:05d}{suffix}" for number in sorted(numbers)),
        {},
    )


def find_meta_parts(directory: str, names: list[str]) -> tuple[str, ...]:
    """consolidated.00.pth and on, () if there is none. Raises CheckpointError if the numbers have a gap."""
    numbers = sorted(int(match[1]) for name in names if (match := _META_PART.fullmatch(name)))
    for expected, number in enumerate(numbers):
        if number != expected:
            raise CheckpointError(
                f"part consolidated.{expected:02d}.pth is missing",
                file=directory,
                found=f"consolidated.{number:02d}.pth",
                fix="download or copy it again",
            )
    return tuple(f"consolidated.{number:02d}.pth" for number in numbers)


def is_meta_part(name: str) -> bool:
    return _META_PART.fullmatch(name) is not None


def shard_stem(name: str) -> tuple[str, str] | None:
    """("model", ".safetensors") of model-00001-of-00002.safetensors; None for a file that is no shard."""
    match = _SHARD.fullmatch(name)
    return (match["stem"], match["suffix"]) if match else None


def merge_shards(
    directory: str, shards: ShardSet, opened: Mapping[str, Mapping[str, LazyTensor]]
) -> dict[str, LazyTensor]:
    """All tensors, in the order of the files. opened: the tensors of each file.

    Raises CheckpointError where a tensor is in two files, or index and files disagree.
    """
    merged: dict[str, LazyTensor] = {}
    for name, tensors in opened.items():
        for tensor in tensors.values():
            if tensor.name in merged:
                raise CheckpointError(
                    f"is also in {os.path.basename(merged[tensor.name].files[0])}",
                    file=os.path.join(directory, name),
                    tensor=tensor.name,
                )
            if shards.weight_map and shards.weight_map.get(tensor.name) != name:
                raise CheckpointError(
                    "is not where the index says",
                    file=os.path.join(directory, name),
                    tensor=tensor.name,
                    found=name,
                    expected=shards.weight_map.get(tensor.name, "no such tensor"),
                    fix="download the shards and the index again",
                )
            merged[tensor.name] = tensor
    if absent := shards.weight_map.keys() - merged.keys():
        missing = min(absent)
        raise CheckpointError(
            "is in the index but not in its shard",
            file=os.path.join(directory, shards.weight_map[missing]),
            tensor=missing,
            fix="download the shard again",
        )
    return merged
