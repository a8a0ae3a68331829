"""The tokenizer files of a folder, each read once. Knows names and JSON, not what the keys mean."""

from __future__ import annotations

import os
from typing import Any

from fastconv.checkpoint.json_file import first_line, parse_json
from fastconv.checkpoint.limits import check_json_memory
from fastconv.errors import CheckpointError, VocabularyError
from fastconv.paths import exists, is_file, is_folder

SENTENCEPIECE_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
MAX_FILE_BYTES = 64 << 20  # twice the largest there is
MAX_JSON_MEMORY = 512 << 20


class TokenizerFiles:
    """A folder with tokenizer files.

    source: the folder, or one of the files in it. Raises VocabularyError if it does not exist.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        path = os.fspath(source)
        if not exists(path):
            raise VocabularyError("does not exist", file=path, fix="give the tokenizer's folder with --vocab-dir")
        self.directory = path if is_folder(path) else os.path.dirname(path) or "."
        self._objects: dict[str, dict[str, Any] | None] = {}

    def path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def has(self, name: str) -> bool:
        return is_file(self.path(name))

    def bytes(self, name: str) -> bytes:
        """The whole file. Raises VocabularyError if it cannot be read or is too large to be a tokenizer's."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_FILE_BYTES:
                    raise VocabularyError("is too large", file=path, found=size, expected=f"at most {MAX_FILE_BYTES}")
                return file.read(size)
        except OSError as error:
            raise VocabularyError(f"cannot be read ({error.strerror})", file=path) from None

    def text(self, name: str) -> str:
        """The file as UTF-8 text. Raises VocabularyError if it cannot be read as that."""
        return _decoded(self.path(name), self.bytes(name)).replace("\r\n", "\n").replace("\r", "\n")

    def object(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the file, None if there is no such file. Raises VocabularyError for any other content."""
        if name not in self._objects:
            self._objects[name] = self._read_object(name) if self.has(name) else None
        return self._objects[name]

    def _read_object(self, name: str) -> dict[str, Any]:
        data = self.bytes(name)
        try:
            check_json_memory(self.path(name), data, MAX_JSON_MEMORY)
        except CheckpointError as error:
            raise VocabularyError(error.what, file=error.file, found=error.found, expected=error.expected) from None
        text = _decoded(self.path(name), data)
        del data
        try:
            found = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise VocabularyError(
                "is not valid JSON", file=self.path(name), found=first_line(error), fix="download or copy it again"
            ) from None
        if not isinstance(found, dict):
            raise VocabularyError(
                "has the wrong JSON value", file=self.path(name), found=type(found).__name__, expected="an object"
            )
        return found


def _decoded(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start}: {error.reason}"
        raise VocabularyError("is not UTF-8 text", file=path, found=found) from None
