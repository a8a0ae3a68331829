"""What tokenizer files say of special tokens: ids, whether bos and eos are added, chat template, normalization.

The rules are those of llama.cpp b11434, gguf-py/gguf/vocab.py (SpecialVocab), which are newer than the released gguf
package's. Knows no vocabulary.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from fastconv.errors import VocabularyError
from fastconv.paths import is_folder
from fastconv.vocab.files import TOKENIZER_JSON, TokenizerFiles
from fastconv.vocab.vocabulary import SPECIAL_KINDS

ChatTemplate = str | list[dict[str, str]]

INFILL_KINDS = ("prefix", "suffix", "middle", "eot")


@dataclass(slots=True, eq=False)
class SpecialTokens:
    """ids: kind -> token id. add: kind -> whether the tokenizer adds it. lowercase, strip_accents: the normalizer's."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)
    chat_template: ChatTemplate | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None


def read_special_tokens(
    files: TokenizerFiles, config: dict[str, Any], n_vocab: int | None, kinds: tuple[str, ...] = SPECIAL_KINDS
) -> SpecialTokens:
    """Special tokens from tokenizer.json, tokenizer_config.json and the model's config.json, in this precedence.

    n_vocab: ids from there on are ignored, None: all ids count. Raises VocabularyError for malformed files.
    """
    return _Reader(files, config, n_vocab, kinds).read()


class _Reader:
    def __init__(
        self, files: TokenizerFiles, config: dict[str, Any], n_vocab: int | None, kinds: tuple[str, ...]
    ) -> None:
        self.files = files
        self.config = config
        self.n_vocab = n_vocab
        self.kinds = kinds
        self.tokenizer = files.object(TOKENIZER_JSON) or {}
        self.tokenizer_config = files.object("tokenizer_config.json") or {}
        # kind -> the token's name, or the object that holds it; templates add to it.
        self.named = {
            kind: self.tokenizer_config.get(f"{kind}_token") for kind in (*SPECIAL_KINDS, *INFILL_KINDS, "eom")
        }
        self.result = SpecialTokens()

    def read(self) -> SpecialTokens:
        self._read_normalizer(self.tokenizer.get("normalizer"))
        if self.tokenizer:
            self._read_post_processor(self.tokenizer.get("post_processor"))
        if self.tokenizer_config:
            self.result.chat_template = _chat_template(self.files, self.tokenizer_config)
            self._read_names()
        text_config = self.config.get("text_config")
        for kind in self.kinds:
            token_id = self.config.get(f"{kind}_token_id")
            if token_id is None and isinstance(text_config, dict):
                token_id = text_config.get(f"{kind}_token_id")
            self._set_id(kind, token_id, "config.json")
        return self.result

    def _read_normalizer(self, normalizer: Any) -> None:
        if not isinstance(normalizer, dict):
            return
        kind = normalizer.get("type")
        if kind == "Lowercase":
            self.result.lowercase = True
        elif kind == "StripAccents":
            self.result.strip_accents = True
        elif kind == "BertNormalizer":
            for flag in ("lowercase", "strip_accents"):
                if flag in normalizer:
                    setattr(self.result, flag, normalizer[flag] if isinstance(normalizer[flag], bool) else None)
        elif kind == "Sequence":
            for part in _objects(normalizer.get("normalizers")):
                self._read_normalizer(part)

    def _read_post_processor(self, post_processor: Any) -> None:
        named = self.named
        configured = bool(self.tokenizer_config)
        if configured:
            named["bos"] = named["bos"] or named["cls"]
            named["eos"] = named["eos"] or named["sep"]
        if not isinstance(post_processor, dict):
            return
        for processor in _objects(post_processor.get("processors", [post_processor])):
            kind = processor.get("type")
            if kind == "ByteLevel":
                self.result.add.setdefault("bos", False)
                self.result.add.setdefault("eos", False)
            elif kind == "RobertaProcessing":
                self.result.add |= {"bos": True, "eos": True, "sep": True}
                for name, fallback in (("cls", "bos"), ("sep", "eos")):
                    pair = processor.get(name) or [named[fallback]]
                    if configured and not named[name] and isinstance(pair, list):
                        named[name] = pair[0]
            elif kind == "TemplateProcessing":
                self._read_template(_objects(processor.get("single")), _objects(processor.get("pair")))

    def _read_template(self, single: list[dict[str, Any]], pair: list[dict[str, Any]]) -> None:
        """single, pair: what the tokenizer makes of one and of two sequences, as lists of parts."""
        named = self.named
        configured = bool(self.tokenizer_config)
        first = _part(single[0], "SpecialToken") if len(single) > 1 else None
        last = _part(single[-1], "SpecialToken") if len(single) > 1 else None
        if first:
            if not configured:
                named["bos"] = first
            elif first not in (named["bos"], named["cls"]):
                named["bos"] = named["bos"] or first
                named["cls"] = named["cls"] or first
            self.result.add["bos"] = first in (named["bos"], named["cls"])
        if last:
            if configured and last != named["eos"]:
                # The template's last token ends a sequence; the configured one may only end a turn, so it is kept too.
                spare = next((kind for kind in ("eot", "eom") if kind not in self.kinds), None)
                if spare is not None:
                    self.kinds = (*self.kinds, spare)
                    named[spare] = named["eos"]
            named["eos"] = last
            self.result.add["eos"] = True
        if first and pair and _part(pair[0], "SpecialToken") == first:
            pair = pair[1:]
        if last and pair and _part(pair[-1], "SpecialToken") == last:
            pair = pair[:-1]
        if len(pair) < 3 or _part(pair[0], "Sequence") != "A" or _part(pair[-1], "Sequence") != "B":
            return
        between = [_part(part, "SpecialToken") for part in pair[1:-1]]
        separates = [bool(token) and token in (named["sep"], named["eos"]) for token in between]
        add_sep = (separates[0] and not last) or (len(between) == 2 and separates[1])
        self.result.add["sep"] = add_sep
        if add_sep and configured:
            named["sep"] = named["sep"] or named["eos"]

    def _read_names(self) -> None:
        ids: dict[Any, Any] = {}
        for token in _objects(self.tokenizer.get("added_tokens")):
            if isinstance(token.get("content"), str):
                ids.setdefault(token["content"], token.get("id"))
        for kind in self.kinds:
            add = self.tokenizer_config.get(f"add_{kind}_token")
            if isinstance(add, bool):
                self.result.add.setdefault(kind, add)
            name = self.named[kind]
            name = name.get("content") if isinstance(name, dict) else name
            if isinstance(name, str):
                self._set_id(kind, ids.get(name), TOKENIZER_JSON)

    def _set_id(self, kind: str, token_id: Any, file: str) -> None:
        if type(token_id) is not int or kind in self.result.ids:
            return
        if token_id < 0:
            raise VocabularyError(
                f"{kind} token has an impossible id", file=self.files.path(file), found=token_id, expected="0 or more"
            )
        if self.n_vocab is None or token_id < self.n_vocab:
            self.result.ids[kind] = token_id


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _part(part: dict[str, Any], kind: str) -> str | None:
    """The id in a template's part if it is of this kind ("SpecialToken", "Sequence")."""
    found = part.get(kind)
    token = found.get("id") if isinstance(found, dict) else None
    return token if isinstance(token, str) else None


def _chat_template(files: TokenizerFiles, tokenizer_config: dict[str, Any]) -> ChatTemplate | None:
    """The template of tokenizer_config.json, else of chat_template.jinja and its folder, else of chat_template.json."""
    if "chat_template" in tokenizer_config:
        template = tokenizer_config["chat_template"]
    elif files.has("chat_template.jinja"):
        template = files.text("chat_template.jinja")
        folder = files.path("additional_chat_templates")
        names = sorted(name for name in _file_names(folder) if name.endswith(".jinja"))
        if names:
            template = [{"name": "default", "template": template}] + [
                {"name": name[: -len(".jinja")], "template": files.text(os.path.join(folder, name))} for name in names
            ]
    else:
        template = (files.object("chat_template.json") or {}).get("chat_template")
    if isinstance(template, str):
        return template
    choices = _objects(template) if isinstance(template, list) else None
    for choice in choices or []:
        if not isinstance(choice.get("name", ""), str) or not isinstance(choice.get("template", ""), str):
            raise VocabularyError("a chat template's name or text is no text", file=files.directory, found=repr(choice))
    return choices


def _file_names(folder: str) -> list[str]:
    return os.listdir(folder) if is_folder(folder) else []
