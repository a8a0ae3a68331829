"""Reads the small YAML files beside a model. Knows nothing of what they say."""

from __future__ import annotations

import os
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_CARD_BYTES = 4 << 20
MAX_YAML_BYTES = 1 << 17  # the parser needs four hundred times as much
MAX_NODES = 1 << 16  # once every alias stands for what it names
_MAX_DIGITS = 300  # of integers: float64 holds no more


def read_yaml_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file. Raises CheckpointError if the file is missing, too large or holds something else."""
    import yaml  # comes with gguf

    storage = FileStorage(path)
    if storage.size > MAX_YAML_BYTES:
        raise CheckpointError(
            "is too large", file=storage.path, found=f"{storage.size} bytes", expected=f"at most {MAX_YAML_BYTES}"
        )
    try:
        value = _load(yaml, storage.read(0, storage.size).decode("utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"is not valid YAML ({problem[:200]})", file=storage.path) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError("is not a mapping of names", file=storage.path, found=type(value).__name__)
    return value


def check_front_matter(path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError where the YAML at the head of a model card would keep a plain parser busy for long."""
    import yaml

    with open(path, "rb") as file:
        card = file.read(MAX_CARD_BYTES + 1)
    if len(card) > MAX_CARD_BYTES:
        raise CheckpointError("is too large for a model card", file=path, expected=f"at most {MAX_CARD_BYTES} bytes")
    if not card.startswith(b"---"):
        return
    lines = card.decode("utf-8", "replace").splitlines()
    # As its reader takes it: up to a line of nothing but the mark, else to the end.
    text = "\n".join(lines[1 : lines.index("---", 1)] if "---" in lines[1:] else lines[1:])
    if len(text) > MAX_YAML_BYTES:
        raise CheckpointError("has too long a head", file=path, expected=f"at most {MAX_YAML_BYTES} bytes of YAML")
    try:
        _load(yaml, text)
    except yaml.YAMLError:
        return  # for its reader to say
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"is not valid YAML ({str(error)[:200]})", file=path) from None


def _load(yaml: Any, text: str) -> Any:
    """Raises ValueError where aliases multiply, for a few of them can name billions of values."""
    loader = _loader(yaml)(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        if _expanded_size(root, {}) > MAX_NODES:
            raise ValueError("its aliases name too many values")
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _expanded_size(node: Any, known: dict[int, int]) -> int:
    """Nodes below and with this one, each as often as it is named. known: sizes by id."""
    size = known.get(id(node))
    if size is None:
        known[id(node)] = MAX_NODES + 1  # of a node in itself
        parts = node.value if not isinstance(node.value, str) else ()
        flat = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
        size = known[id(node)] = 1 + sum(_expanded_size(part, known) for part in flat)
    return size


def _loader(yaml: Any) -> Any:
    """The safe loader, taking class tags for what they hold: jsonargparse and dataclasses leave such tags behind."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_yaml_int(self, node: Any) -> Any:
            if len(node.value) > _MAX_DIGITS:
                raise ValueError("an integer is too large")
            return super().construct_yaml_int(node)

    def untagged(loader: Any, _: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    Loader.add_multi_constructor("tag:yaml.org,2002:python/", untagged)
    Loader.add_multi_constructor("!", untagged)
    return Loader
