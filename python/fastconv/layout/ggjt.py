"""GGJT v1, v2 and v3, the files of llama.cpp from March to August 2023: header, tensor records, offsets.

Knows sizes and names, never tensor data. docs/formats/ggjt.md has the bytes in file order and the sources.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

import numpy as np

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.canonical import instances, meta_names
from fastconv.architecture.hparams import Hyperparameters
from fastconv.architecture.spec import CanonicalModel
from fastconv.errors import PlanError
from fastconv.layout.ggjt_vocabulary import token_records, vocabulary_notes
from fastconv.layout.laid_out import LaidOut, PlacedTensor
from fastconv.plan.file_types import FileType
from fastconv.plan.recipe import PLAIN, Recipe
from fastconv.record import record
from fastconv.types import TYPES, row_bytes
from fastconv.vocab.vocabulary import Vocabulary

MAGIC = 0x67676A74  # the bytes "tjgg"
ALIGNMENT = 32  # bytes, of a tensor's data within the file


@record(eq=True)
class _Outtype:
    """ftype: the header's code (llama.h, enum llama_ftype). blocks: what versions 1, 2, 3 store, None: nothing."""

    ftype: int
    blocks: tuple[str | None, str | None, str | None]


# The blocks changed with pull request 1405 (v2: order of nibbles, rounding) and 1508 (v3: f16 scales).
_OUTTYPES = {
    "f32": _Outtype(0, ("f32", "f32", "f32")),
    "f16": _Outtype(1, ("f16", "f16", "f16")),
    "q4_0": _Outtype(2, ("q4_0_v1", "q4_0_v2", "q4_0")),
    "q4_1": _Outtype(3, ("q4_1_v1", "q4_1_v2", "q4_1")),
    "q8_0": _Outtype(7, ("q8_0_v1", "q8_0_v1", "q8_0")),
    "q5_0": _Outtype(8, ("q5_0_v1", "q5_0", "q5_0")),
    "q5_1": _Outtype(9, ("q5_1_v1", "q5_1", "q5_1")),
    "q6_k": _Outtype(18, (None, None, "q6_k")),
}
# Every version gives a type the same code, whatever its blocks look like.
_TYPE_CODE = {block: TYPES[name].ggml_type for name, row in _OUTTYPES.items() for block in row.blocks if block}


def lay_out(
    model: CanonicalModel,
    tensors: Mapping[str, MergedTensor],
    vocabulary: Vocabulary,
    file_type: FileType,
    version: int,
    *,
    recipe: Recipe = PLAIN,
) -> LaidOut:
    """The file of these tensors (canonical names; rows that rotate interleaved) in the order of convert.py.

    No tensors: a file of the vocabulary alone. Readers know no tied embeddings, so output.weight of such a model is the
    embedding once more. Raises PlanError for what the version cannot hold or its readers cannot run, VocabularyError
    where the vocabulary does not fit the model.
    """
    hparams = model.hparams
    notes = (*_check_model(hparams, version), *vocabulary_notes(vocabulary))
    if not tensors:
        n_vocab = len(vocabulary.tokens)
        # The same numbers as convert.py --vocab-only.
        header = _header(version, n_vocab, 0, 0, 1, 0, 0, 0) + token_records(vocabulary, n_vocab)
        return LaidOut(((0, header),), (), len(header), notes)

    header = _header(
        version,
        hparams.n_vocab,
        hparams.n_embd,
        n_mult(hparams, version),
        hparams.n_head,
        hparams.n_layer,
        hparams.head_dim,
        _outtype(file_type.name, version).ftype,
    ) + token_records(vocabulary, hparams.n_vocab)
    chunks = [(0, header)]
    placed: list[PlacedTensor] = []
    end = len(header)
    names = meta_names(model.spec, hparams)
    for rule, _, expected in instances(model.spec, hparams):
        canonical = expected if expected in tensors or rule.tied_to is None else rule.tied_to
        name, shape = names[expected], tensors[canonical].base.shape
        block = tensor_type(name, shape, file_type.name, version=version, pure=recipe.pure)
        record = _tensor_record(name, shape, block)
        chunks.append((end, record))
        offset = -(-(end + len(record)) // ALIGNMENT) * ALIGNMENT
        size = math.prod(shape[:-1]) * row_bytes(block, shape[-1])
        placed.append(PlacedTensor(name, canonical, shape, block, offset, size))
        end = offset + size
    return LaidOut(tuple(chunks), tuple(placed), end, notes)


def auto_outtype(file_type: str, version: int) -> str:
    """What convert.py wrote where no type was asked for: f16 as it is, other floats as f32; blocks that stay blocks.

    file_type: the name of the type that keeps the input's precision.
    """
    row = _OUTTYPES.get(file_type)
    if file_type in ("f32", "bf16") or row is None or row.blocks[version - 1] is None:
        return "f32"
    return file_type


def tensor_type(name: str, shape: Sequence[int], outtype: str, *, version: int, pure: bool = False) -> str:
    """The type of one tensor, by the rules of the `quantize` tool of each version's time.

    name: as in the file. shape: output dimension first. Vectors stay f32. In v3 output.weight is q6_k, and where q6_k
    does not fit, output.weight is f16 and the embedding q4_0 (pull requests 1684, 1807 and 1932); pure: every matrix
    of one type. Raises PlanError where a row does not divide into blocks.
    """
    if len(shape) < 2:
        return "f32"
    chosen = _outtype(outtype, version).blocks[version - 1] or outtype
    divides = all(n % TYPES["q6_k"].block_size == 0 for n in shape)
    if not pure and version >= 3 and TYPES[chosen].block_size > 1:
        if name == "output.weight" and divides:
            chosen = "q6_k"
        elif chosen == "q6_k" and not divides:
            chosen = {"output.weight": "f16", "tok_embeddings.weight": "q4_0"}.get(name, chosen)
    if shape[-1] % TYPES[chosen].block_size:
        raise PlanError(
            f"{outtype} cannot hold it",
            tensor=name,
            found=f"rows of {shape[-1]} elements",
            expected=f"a multiple of {TYPES[chosen].block_size}",
            fix="choose f16",
        )
    return chosen


def n_mult(hparams: Hyperparameters, version: int) -> int:
    """The header's stand-in for n_ff, which is not stored: readers round 8/3 n_embd up to a multiple of it.

    What the source states, else the largest up to 256 as convert.py searched (pull request 1958), else n_ff. Raises
    PlanError if no value gives n_ff, that is if n_ff is less than 8/3 n_embd.
    """
    raw = 2 * (4 * hparams.n_embd) // 3
    if version >= 3 and hparams.n_layer == 80 and hparams.n_head == 8 * hparams.n_head_kv:
        # Readers know Llama 2 70B by these two numbers and apply its ffn_dim_multiplier, in f32 (pull request 2276).
        raw = int(np.float32(1.3) * np.float32(raw))
    stated = [hparams.n_mult] if hparams.n_mult and hparams.n_mult > 0 else []
    candidates: list[int] = [*stated, *range(256, 1, -1), hparams.n_ff]
    for candidate in candidates:
        if -(-raw // candidate) * candidate == hparams.n_ff:
            return candidate
    raise PlanError(
        "GGJT does not store the feed-forward size, and none that its readers compute matches",
        found=f"n_ff {hparams.n_ff} at n_embd {hparams.n_embd}",
        expected=f"n_ff of {raw} or more",
        fix="write GGUF instead",
    )


def _outtype(name: str, version: int) -> _Outtype:
    """Raises PlanError if the version cannot hold the type."""
    row = _OUTTYPES.get(name)
    if row is None or row.blocks[version - 1] is None:
        held = [name for name, other in _OUTTYPES.items() if other.blocks[version - 1]]
        raise PlanError(f"GGJT v{version} cannot hold {name}", expected=f"one of {', '.join(held)}")
    return row


def _header(*fields: int) -> bytes:
    """version, n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype."""
    return struct.pack("<9I", MAGIC, *fields)


def _tensor_record(name: str, shape: Sequence[int], block: str) -> bytes:
    """Everything before the padding; dimensions are reversed here and nowhere else."""
    label = name.encode()
    dims = tuple(reversed(shape))
    return struct.pack(f"<3I{len(dims)}I", len(dims), len(label), _TYPE_CODE[block], *dims) + label


def _check_model(hparams: Hyperparameters, version: int) -> list[str]:
    """Notes on what readers must be told. Raises PlanError for what they cannot be told."""

    def refuse(what: str, found: object, expected: object) -> PlanError:
        return PlanError(f"GGJT v{version} {what}", found=found, expected=expected, fix="write GGUF instead")

    if hparams.head_dim * hparams.n_head != hparams.n_embd:
        raise refuse(
            "has no field for the size of a head",
            f"head_dim {hparams.head_dim}",
            f"n_embd {hparams.n_embd} / n_head {hparams.n_head}",
        )
    if hparams.attention_bias or hparams.mlp_bias:
        raise refuse("has no biases", "a model with biases", "one without")

    options: list[str] = []
    if hparams.n_head_kv != hparams.n_head:
        if version < 3:
            raise refuse("knows no grouped heads", f"{hparams.n_head_kv} key/value heads", str(hparams.n_head))
        options.append(f"-gqa {hparams.n_head // hparams.n_head_kv}")
    if hparams.rope_base != 10000:
        if version < 3:
            raise refuse("has a fixed rope base", f"{hparams.rope_base:g}", "10000")
        options.append(f"--rope-freq-base {hparams.rope_base:g}")
    if hparams.rope_scaling is not None:
        factor = hparams.rope_scaling.parameters.get("factor")
        if version < 3 or hparams.rope_scaling.kind != "linear" or not factor:
            known_scaling = "none" if version < 3 else "linear"
            raise refuse("cannot express its rope scaling", hparams.rope_scaling.kind, known_scaling)
        options.append(f"--rope-freq-scale {1 / factor:g}")
    if version >= 3:
        options.append(f"-eps {hparams.norm_eps:g}")

    notes: list[str] = []
    if options:
        notes.append(f"GGJT holds none of this, so tell its readers: {' '.join(options)}")
    elif hparams.norm_eps != 1e-6:
        notes.append(f"readers of GGJT v{version} normalize with epsilon 1e-06, this model has {hparams.norm_eps:g}")
    known = (32, 40, 60, 80)
    if hparams.n_layer not in known and (version < 3 or hparams.n_layer > 32):
        notes.append(
            f"llama.cpp of GGJT v{version} loads models of 32, 40, 60 or 80 layers"
            f"{'' if version < 3 else ' or fewer than 32'}, this one has {hparams.n_layer}"
        )
    return notes
