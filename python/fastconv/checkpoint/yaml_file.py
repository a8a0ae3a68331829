"""Reads the small YAML files beside a model. Knows nothing of what they say."""

from __future__ import annotations

import os
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.errors import CheckpointError

MAX_YAML_BYTES = 1 << 20  # the parser needs a hundred times as much


def read_yaml_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The mapping in a YAML file. Raises CheckpointError if the file is missing, too large or holds something else."""
    import yaml  # comes with gguf

    storage = FileStorage(path)
    if storage.size > MAX_YAML_BYTES:
        raise CheckpointError(
            "is too large", file=storage.path, found=f"{storage.size} bytes", expected=f"at most {MAX_YAML_BYTES}"
        )
    try:
        value = yaml.load(storage.read(0, storage.size).decode("utf-8-sig"), _loader(yaml))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"is not valid YAML ({problem[:200]})", file=storage.path) from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CheckpointError("is not a mapping of names", file=storage.path, found=type(value).__name__)
    return value


def _loader(yaml: Any) -> Any:
    """The safe loader, taking class tags for what they hold: jsonargparse and dataclasses leave such tags behind."""

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def untagged(loader: Any, _: str, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", untagged)
    Loader.add_multi_constructor("!", untagged)
    return Loader
