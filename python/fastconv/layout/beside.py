"""The small files that make weights a model: configuration, tokenizer, license. Copied, or written anew."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable
from typing import Any

from fastconv.checkpoint.storage import FileStorage
from fastconv.layout.laid_out import CopiedBytes, LaidOut
from fastconv.paths import is_file, is_folder

# What transformers and tokenizers read beside weights, the code of models outside of transformers, and licenses.
_WANTED = re.compile(
    r"generation_config\.json|preprocessor_config\.json|processor_config\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|chat_template\.(jinja|json)|.*\.(model|tiktoken)|.*\.py|(LICENSE|NOTICE|USE_POLICY).*",
    re.IGNORECASE,
)


_TOKENIZERS = re.compile(r"tokenizer\.json|vocab\.(json|txt)|.*\.(model|tiktoken)", re.IGNORECASE)


def copied_files(directory: str, but: Collection[str] = ()) -> list[LaidOut]:
    """The files of a model's folder that its weights need, as they are. but: names to leave out."""
    files = []
    for name in sorted(os.listdir(directory) if is_folder(directory) else ()):
        path = os.path.join(directory, name)
        if _WANTED.fullmatch(name) and name not in but and is_file(path):
            files.append(copied_file(path))
    return files


def tokenizer_notes(files: Iterable[LaidOut]) -> tuple[str, ...]:
    """What users of a folder must know that got no tokenizer."""
    if any(_TOKENIZERS.fullmatch(file.name) for file in files):
        return ()
    return ("no tokenizer stands beside the model, so none was copied",)


def copied_file(path: str) -> LaidOut:
    storage = FileStorage(path)
    copied = (CopiedBytes(0, storage, 0, storage.size),)
    return LaidOut((), (), storage.size, name=os.path.basename(path), copied=copied)


def json_file(name: str, value: dict[str, Any]) -> LaidOut:
    return text_file(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def text_file(name: str, text: str) -> LaidOut:
    data = text.encode("utf-8", "surrogatepass")
    return LaidOut(((0, data),), (), len(data), name=name)
