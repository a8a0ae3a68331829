"""The key-value section of a GGUF file, key by key in the order of llama.cpp's converter.

Source: llama.cpp b11434, conversion/base.py (prepare_metadata, set_gguf_parameters) and conversion/llama.py; what
llama-quantize changes is in src/llama-quant.cpp. Knows no tensor data. Imports gguf, which takes a moment.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from gguf.constants import GGML_QUANT_VERSION, GGUFType, GGUFValueType, Keys, LlamaFileType, RopeScalingType
from gguf.metadata import Metadata

from fastconv.architecture.hparams import Hyperparameters, RopeScaling
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.json_file import MAX_JSON_BYTES, first_line, parse_json, read_json_object
from fastconv.checkpoint.yaml_file import check_front_matter
from fastconv.errors import CheckpointError
from fastconv.layout.gguf_values import encode_string, encode_value
from fastconv.paths import is_file
from fastconv.plan.file_types import FileType
from fastconv.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import ImportanceMatrix

_TOKENIZER_MODELS = {"spm": "llama", "bpe": "gpt2"}
# llama.cpp turns bos off for vocabularies of this size (Granite's, and so SmolLM2's).
_NO_BOS_SIZE = 49152
# Kinds that llama.cpp's converter has a key for; it drops "cls" and Code Llama's "prefix", "suffix" and "middle".
_ID_KEYS = {
    "bos": Keys.Tokenizer.BOS_ID,
    "eos": Keys.Tokenizer.EOS_ID,
    "unk": Keys.Tokenizer.UNK_ID,
    "sep": Keys.Tokenizer.SEP_ID,
    "pad": Keys.Tokenizer.PAD_ID,
    "mask": Keys.Tokenizer.MASK_ID,
    "eot": Keys.Tokenizer.EOT_ID,
    "eom": Keys.Tokenizer.EOM_ID,
}
_ADD_KEYS = {"bos": Keys.Tokenizer.ADD_BOS, "eos": Keys.Tokenizer.ADD_EOS, "sep": Keys.Tokenizer.ADD_SEP}
_YARN_FACTORS = (
    (("extrapolation_factor",), Keys.Rope.SCALING_YARN_EXT_FACTOR),
    (("attention_factor", "attn_factor"), Keys.Rope.SCALING_YARN_ATTN_FACTOR),
    (("beta_fast",), Keys.Rope.SCALING_YARN_BETA_FAST),
    (("beta_slow",), Keys.Rope.SCALING_YARN_BETA_SLOW),
)

_LONGEST_TEXT = 127


class KeyValues:
    """Keys with encoded values. Setting a key again keeps its place."""

    def __init__(self, architecture: str, encoded: Mapping[str, bytes | memoryview] | None = None) -> None:
        """encoded: values to begin with, as GGUF stores them: type, then value."""
        self._architecture = architecture
        self._encoded: dict[str, bytes | memoryview] = dict(encoded or {})
        self.notes: list[str] = []  # what could not be said

    def set(self, key: str, value_type: GGUFValueType, value: Any) -> None:
        """key may hold {arch}. None is not written, and nor are empty strings and arrays."""
        if value is None or (value_type in (GGUFValueType.STRING, GGUFValueType.ARRAY) and len(value) == 0):
            return
        self._encoded[key.replace("{arch}", self._architecture)] = encode_value(value_type, value)

    def uint32(self, key: str, value: int | None) -> None:
        self.set(key, GGUFValueType.UINT32, value)

    def float32(self, key: str, value: float | None) -> None:
        self.set(key, GGUFValueType.FLOAT32, value)

    def boolean(self, key: str, value: bool | None) -> None:
        self.set(key, GGUFValueType.BOOL, value)

    def string(self, key: str, value: str | bytes | None) -> None:
        self.set(key, GGUFValueType.STRING, value)

    def array(self, key: str, values: list[Any]) -> None:
        self.set(key, GGUFValueType.ARRAY, values)

    def remove(self, key: str) -> None:
        self._encoded.pop(key.replace("{arch}", self._architecture), None)

    def move_to_end(self, key: str) -> None:
        self._encoded[key] = self._encoded.pop(key)

    @property
    def encoded(self) -> dict[str, bytes | memoryview]:
        return dict(self._encoded)

    def __len__(self) -> int:
        return len(self._encoded)

    def __bytes__(self) -> bytes:
        return b"".join(part for key, value in self._encoded.items() for part in (encode_string(key), value))


def key_values(
    model: CanonicalModel,
    vocabulary: Vocabulary,
    file_type: FileType,
    n_params: int,
    *,
    quantizes: bool,
    imatrix: ImportanceMatrix | None = None,
) -> KeyValues:
    """Everything that a GGUF file says beside its tensors.

    n_params: elements of all tensors, 0 for a file of the vocabulary alone. quantizes: as llama-quantize leaves it;
    imatrix: what it then says of the importance matrix. Raises CheckpointError for a model card or
    generation_config.json that cannot be understood.
    """
    values = KeyValues(model.spec.name)
    values.string(Keys.General.ARCHITECTURE, model.spec.name)
    values.string(Keys.General.TYPE, GGUFType.MODEL)
    _add_authorship(values, model, n_params)
    _add_hyperparameters(values, model, file_type)
    values.uint32(Keys.General.QUANTIZATION_VERSION, GGML_QUANT_VERSION)
    try:
        _add_vocabulary(values, vocabulary)
    except UnicodeEncodeError as error:
        raise CheckpointError(
            "the tokenizer holds text that is not Unicode", file=model.directory, found=ascii(error.object[:40])
        ) from None
    if model.hparams.n_vocab == _NO_BOS_SIZE:
        values.boolean(Keys.Tokenizer.ADD_BOS, False)
    if quantizes:
        values.move_to_end(Keys.General.QUANTIZATION_VERSION)
        values.move_to_end(Keys.General.FILE_TYPE)
        if imatrix is not None:
            add_imatrix(values, imatrix)
    return values


def add_imatrix(values: KeyValues, imatrix: ImportanceMatrix) -> None:
    """Source: llama.cpp b11434, tools/quantize/quantize.cpp, which keeps the first 127 bytes of a text."""
    values.string("quantize.imatrix.file", os.fsencode(imatrix.path)[:_LONGEST_TEXT])
    if imatrix.datasets:
        values.string("quantize.imatrix.dataset", imatrix.datasets[0][:_LONGEST_TEXT])
    values.uint32("quantize.imatrix.entries_count", len(imatrix.entries))
    if imatrix.n_chunks > 0:
        values.uint32("quantize.imatrix.chunks_count", imatrix.n_chunks)


class _Authorship:
    """Stands in for gguf's writer of files, whose module takes long to import, where gguf sets authorship.

    add_<field>(value) sets the key General.<FIELD>, add_<list>_<field>(index, value) that of an entry.
    """

    _INT32 = ("sampling_top_k", "sampling_penalty_last_n", "sampling_mirostat")
    _ARRAYS = ("tags", "languages")

    def __init__(self, values: KeyValues) -> None:
        self._values = values

    def __getattr__(self, method: str) -> Callable[..., None]:
        field = method.removeprefix("add_")
        key: str = getattr(Keys.General, field.upper())
        if field in self._INT32:
            value_type = GGUFValueType.INT32
        elif field.startswith("sampling_") and field != "sampling_sequence":
            value_type = GGUFValueType.FLOAT32
        elif field.endswith("_count"):
            value_type = GGUFValueType.UINT32
        else:
            value_type = GGUFValueType.ARRAY if field in self._ARRAYS else GGUFValueType.STRING
        return lambda *entry_and_value: self._values.set(
            key.format(id=entry_and_value[0]) if len(entry_and_value) > 1 else key,
            value_type,
            _as_text(entry_and_value[-1]),
        )


def _as_text(value: Any) -> Any:
    """Names of folders need not be UTF-8, which GGUF's texts are."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if isinstance(value, str) else value


def _add_authorship(values: KeyValues, model: CanonicalModel, n_params: int) -> None:
    """Name, size, licence, sources and sampling advice, as gguf finds them in the model's folder and name."""
    directory = Path(model.directory)
    if model.title is not None:
        directory /= model.title  # no folder: what stands beside the file need not belong to it
    generation = _generation_config(directory)
    card = directory / "README.md"
    if card.is_file():
        check_front_matter(card)
    config = directory / "config.json"
    if is_file(config):
        read_json_object(config)
    logger, complaints = logging.getLogger("metadata"), _Complaints()
    try:
        logger.addFilter(complaints)
        metadata = Metadata.load(None, directory, None, n_params)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(
            "has a model card that is not YAML", file=card, found=str(error), fix="correct or remove the card"
        ) from None
    except json.JSONDecodeError as error:
        fix = "save it as UTF-8 without a byte-order mark"
        raise CheckpointError(f"is not plain JSON ({first_line(error)})", file=config, fix=fix) from None
    except (TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            "or config.json holds a value of the wrong type", file=card, found=first_line(error)
        ) from None
    finally:
        logger.removeFilter(complaints)
    values.notes += (f"{card}: {complaint}: not written" for complaint in complaints.lines)
    # Releases of gguf up to 0.19 do not look for this name.
    if metadata.sampling_penalty_repeat is None:
        metadata.sampling_penalty_repeat = generation.get("repetition_penalty")
    metadata.name = directory.name if metadata.name is None else metadata.name
    if metadata.size_label is None and n_params > 0:
        from gguf.utility import size_label

        metadata.size_label = size_label(n_params, n_params, 0, 0)
    try:
        metadata.set_gguf_meta_model(_Authorship(values))  # type: ignore[arg-type]
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            "or generation_config.json holds a value of the wrong type", file=card, found=str(error)
        ) from None


class _Complaints(logging.Filter):
    """What gguf would print while a model card is read."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.lines.append(record.getMessage()[:200])
        return False


def _generation_config(directory: Path) -> dict[str, Any]:
    path = directory / "generation_config.json"
    if not is_file(path):
        return {}
    try:
        with path.open("rb") as file:
            found = parse_json(file.read(MAX_JSON_BYTES).decode("utf-8"))
    except json.JSONDecodeError:
        return {}  # as gguf takes it: it only advises
    except (ValueError, RecursionError) as error:
        raise CheckpointError("is not valid JSON", file=path, found=first_line(error)) from None
    if not isinstance(found, dict):
        raise CheckpointError("has the wrong JSON value", file=path, found=type(found).__name__, expected="an object")
    return found


def _add_hyperparameters(values: KeyValues, model: CanonicalModel, file_type: FileType) -> None:
    hparams = model.hparams
    values.uint32(Keys.LLM.BLOCK_COUNT, hparams.n_layer)
    values.uint32(Keys.LLM.CONTEXT_LENGTH, hparams.n_ctx)
    values.uint32(Keys.LLM.EMBEDDING_LENGTH, hparams.n_embd)
    values.uint32(Keys.LLM.FEED_FORWARD_LENGTH, hparams.n_ff)
    values.uint32(Keys.Attention.HEAD_COUNT, hparams.n_head)
    values.uint32(Keys.Attention.HEAD_COUNT_KV, hparams.n_head_kv)
    if hparams.rope_scaling is not None:
        _add_rope_scaling(values, hparams, hparams.rope_scaling)
    values.float32(Keys.Rope.FREQ_BASE, hparams.rope_base)
    values.float32(Keys.Attention.LAYERNORM_RMS_EPS, hparams.norm_eps)
    values.uint32(Keys.Attention.KEY_LENGTH, hparams.head_dim)
    values.uint32(Keys.Attention.VALUE_LENGTH, hparams.head_dim)
    values.uint32(Keys.General.FILE_TYPE, LlamaFileType[file_type.gguf_name])
    values.uint32(Keys.LLM.VOCAB_SIZE, hparams.n_vocab)
    values.uint32(Keys.Rope.DIMENSION_COUNT, hparams.head_dim)


def _add_rope_scaling(values: KeyValues, hparams: Hyperparameters, scaling: RopeScaling) -> None:
    """llama3 scaling is not here: it is a tensor (architecture/rope.py)."""
    parameters = scaling.parameters
    if scaling.kind == "longrope":
        values.string(Keys.Rope.SCALING_TYPE, RopeScalingType.LONGROPE.value)
    if scaling.kind not in ("linear", "yarn"):
        return
    values.string(Keys.Rope.SCALING_TYPE, scaling.kind)
    values.float32(Keys.Rope.SCALING_FACTOR, parameters["factor"])
    if scaling.kind == "yarn":
        values.uint32(Keys.Rope.SCALING_ORIG_CTX_LEN, parameters.get("original_max_position_embeddings", hparams.n_ctx))
        for names, key in _YARN_FACTORS:
            values.float32(key, next((parameters[name] for name in names if name in parameters), None))


def _add_vocabulary(values: KeyValues, vocabulary: Vocabulary) -> None:
    values.boolean(Keys.Tokenizer.ADD_PREFIX, vocabulary.add_space_prefix)
    values.string(Keys.Tokenizer.MODEL, _TOKENIZER_MODELS[vocabulary.kind])
    values.string(Keys.Tokenizer.PRE, vocabulary.pre)
    values.array(Keys.Tokenizer.LIST, vocabulary.tokens)
    values.array(Keys.Tokenizer.SCORES, vocabulary.scores)
    values.array(Keys.Tokenizer.TOKEN_TYPE, vocabulary.types)
    values.array(Keys.Tokenizer.MERGES, vocabulary.merges)
    _add_ids(values, vocabulary.special_ids)
    for kind, added in vocabulary.add_special.items():
        if kind in _ADD_KEYS:
            values.boolean(_ADD_KEYS[kind], added)
    if vocabulary.chat_template is not None:
        _add_chat_template(values, vocabulary.chat_template)
    values.boolean("tokenizer.ggml.normalizer.lowercase", vocabulary.lowercase)
    values.boolean("tokenizer.ggml.normalizer.strip_accents", vocabulary.strip_accents)
    _add_ids(values, vocabulary.infill_ids)


def _add_ids(values: KeyValues, ids: dict[str, int]) -> None:
    for kind, token_id in ids.items():
        if kind in _ID_KEYS:
            values.uint32(_ID_KEYS[kind], token_id)


def _add_chat_template(values: KeyValues, template: str | list[dict[str, str]]) -> None:
    """One template, or several with names, of which "default" is the one that counts."""
    if isinstance(template, str):
        values.string(Keys.Tokenizer.CHAT_TEMPLATE, template)
        return
    default: str | None = None
    names: set[str] = set()
    for choice in template:
        name = re.sub("[^A-Za-z0-9]", "_", choice.get("name", ""))
        text = choice.get("template")
        if name == "default":
            default = text
        elif name and text is not None:
            names.add(name)
            values.string(Keys.Tokenizer.CHAT_TEMPLATE_N.replace("{name}", name), text)
    values.array(Keys.Tokenizer.CHAT_TEMPLATES, sorted(names))
    values.string(Keys.Tokenizer.CHAT_TEMPLATE, default)
