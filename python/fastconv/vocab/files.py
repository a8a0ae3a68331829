"""The tokenizer files of a folder, each read once. Knows names and JSON, not what the keys mean."""

from __future__ import annotations

import io
import json
import os
from typing import Any

from fastconv.errors import VocabularyError
from fastconv.paths import exists, is_file, is_folder

SENTENCEPIECE_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"


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
        """The whole file. Raises VocabularyError if it cannot be read."""
        path = self.path(name)
        try:
            with open(path, "rb") as file:
                return file.read()
        except OSError as error:
            raise VocabularyError(f"cannot be read ({error.strerror})", file=path) from None

    def text(self, name: str) -> str:
        """The file as UTF-8 text. Raises VocabularyError if it cannot be read as that."""
        try:
            return io.TextIOWrapper(io.BytesIO(self.bytes(name)), encoding="utf-8").read()
        except UnicodeDecodeError as error:
            found = f"byte {error.start}: {error.reason}"
            raise VocabularyError("is not UTF-8 text", file=self.path(name), found=found) from None

    def object(self, name: str) -> dict[str, Any] | None:
        """The JSON object in the file, None if there is no such file. Raises VocabularyError for any other content."""
        if name not in self._objects:
            self._objects[name] = self._read_object(name) if self.has(name) else None
        return self._objects[name]

    def _read_object(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads(self.text(name))
        except (ValueError, RecursionError) as error:
            raise VocabularyError(
                "is not valid JSON", file=self.path(name), found=str(error), fix="download or copy it again"
            ) from None
        if not isinstance(found, dict):
            raise VocabularyError(
                "has the wrong JSON value", file=self.path(name), found=type(found).__name__, expected="an object"
            )
        return found
