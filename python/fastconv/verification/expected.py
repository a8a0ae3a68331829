"""What a file should hold: a conversion of its source, planned like any other, with the types that the file has."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastconv.adapter.delta import MergedTensor
from fastconv.architecture.litgpt.marks import holds_lit_names
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.gguf_array import GgufArray, value_of
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.conversion import OpenedSource, file_types_of, open_source
from fastconv.errors import UsageError
from fastconv.finding import Finding
from fastconv.layout.laid_out import LaidOut
from fastconv.plan.file_types import KEPT
from fastconv.plan.importance import with_importance
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.plan.recipe import PLAIN, ggml_shape
from fastconv.record import record
from fastconv.request import ConvertRequest
from fastconv.types import TYPES

# Keys that name the model, tell how it was quantized or split: programs differ on them, and no reader depends on them.
_CHAT_TEMPLATE = "tokenizer.chat_template"
_FREE_KEYS = ("general.", "quantize.", "split.", "fastconv.", _CHAT_TEMPLATE)
_BOUND_KEYS = ("general.architecture", "general.alignment")


@record
class Expected:
    """pairs: each tensor of the file that can be compared, and the job that it should be the output of.

    findings: names, shapes and metadata that are not the source's. unchecked: name -> why it cannot be compared.
    """

    pairs: tuple[tuple[TensorJob, LazyTensor], ...]
    findings: tuple[Finding, ...]
    unchecked: dict[str, str]
    notes: tuple[str, ...]


def request_for(checkpoint: Checkpoint, request: ConvertRequest) -> ConvertRequest:
    """The request that would write the file's format. Raises UsageError for one that is never written."""
    if checkpoint.is_self_contained and not checkpoint.tensors:
        request = replace(request, vocab_only=True)
    if checkpoint.format == "gguf":
        return replace(request, to="gguf")
    if checkpoint.format == "ggjt":
        container, version = checkpoint.metadata["container"], checkpoint.metadata["version"]
        if checkpoint.parts:
            raise UsageError("a GGML file in parts cannot be compared", file=checkpoint.path, fix="convert it first")
        return replace(request, to=f"ggjt-v{version}" if container == "ggjt" else "ggjt-v1")
    if holds_lit_names(checkpoint.tensors):
        from fastconv.architecture.litgpt.source import qkv_layout

        return replace(request, to="litgpt", litgpt_layout=qkv_layout(checkpoint.path, checkpoint.tensors))
    return replace(request, to="hf", outfile=os.path.join(checkpoint.directory, "compared.safetensors"))


def expected(checkpoint: Checkpoint, request: ConvertRequest, imatrix: str | None = None) -> Expected:
    """The file's tensors and metadata against the source's. request: of request_for. imatrix: path.

    Raises a FastconvError where the source cannot be converted to the file's format.
    """
    source = open_source(request)
    findings: list[Finding] = []
    notes: list[str] = []
    if request.to in ("hf", "litgpt"):
        names = [(name, name) for name in source.contents.tensors]
        if request.to == "litgpt":
            from fastconv.layout.litgpt import names_in_file

            names = names_in_file(source.contents.tensors)
        targets = {name: source.contents.tensors[canonical] for name, canonical in names}
        from fastconv.verification import beside

        findings, notes = beside.held_against(checkpoint, source.checkpoint, request)
    else:
        [laid_out] = _laid_out(source)
        targets = {placed.name: source.contents.tensors[placed.canonical] for placed in laid_out.tensors}
        compare = _gguf_metadata if request.to == "gguf" else _ggjt_metadata
        findings, notes = compare(checkpoint, laid_out)
    tensors = checkpoint.tensors
    findings += [Finding("is missing from the file", tensor=name) for name in targets if name not in tensors]
    findings += [
        Finding("is in the file and not in the source", tensor=name) for name in tensors if name not in targets
    ]
    pairs: list[tuple[TensorJob, LazyTensor]] = []
    unchecked: dict[str, str] = {}
    for name, stored in tensors.items():
        if name not in targets:
            continue
        merged = targets[name]
        # Not every format keeps leading dimensions of 1.
        if ggml_shape(stored.shape) != ggml_shape(merged.base.shape):
            found, wanted = (" x ".join(map(str, shape)) for shape in (stored.shape, merged.base.shape))
            findings.append(Finding("has another shape than in the source", name, found, wanted))
            continue
        source_name = source.contents.model.source_names.get(name, name)
        job = _job(name, source_name, merged, stored, is_weighted=imatrix is not None)
        if job is None:
            unchecked[name] = f"{stored.dtype} can be neither decoded nor made"
        else:
            pairs.append((job, stored))
    if imatrix is not None:
        from fastconv.checkpoint.imatrix import read_imatrix

        jobs, more = with_importance([job for job, _ in pairs], [KEPT], read_imatrix(imatrix))
        pairs = [(job, stored) for job, (_, stored) in zip(jobs, pairs, strict=True)]
        notes += more
    return Expected(tuple(pairs), tuple(findings), unchecked, tuple(notes))


def _laid_out(source: OpenedSource) -> tuple[LaidOut, ...]:
    """For names, shapes and metadata: the types are the file's."""
    [file_type] = file_types_of(source)
    return source.layout.lay_out(source.contents, file_type, PLAIN)


def _job(
    name: str, source_name: str, merged: MergedTensor, stored: LazyTensor, *, is_weighted: bool
) -> TensorJob | None:
    """The job whose output the stored tensor is; f32 in place of a type that is only decoded. None: not even that."""
    info = TYPES.get(stored.dtype)
    pieces = {piece.type for piece in merged.base.pieces}
    if info is None or not stored.is_packed:
        return None
    copies = pieces == {stored.dtype} and not merged.deltas
    written = stored.dtype if copies or (info.encodes and (is_weighted or not info.needs_importance)) else "f32"
    if not copies and not all(TYPES[piece].decodes for piece in pieces):
        return None
    if written != stored.dtype and not info.decodes:
        return None
    output = TensorOutput(0, written, 0, 0)
    return TensorJob(name, source_name, merged.base.shape, merged.base, merged.deltas, (output,))


def _gguf_metadata(checkpoint: Checkpoint, laid_out: LaidOut) -> tuple[list[Finding], list[str]]:
    findings: list[Finding] = []
    notes: list[str] = []
    stored = checkpoint.encoded
    for key in dict.fromkeys((*laid_out.key_values, *stored)):
        if key.startswith(_FREE_KEYS) and key not in _BOUND_KEYS:
            if key == _CHAT_TEMPLATE and stored.get(key) != laid_out.key_values.get(key):
                notes.append("its chat template is not the one that the source gives")
            continue
        if key not in stored:
            findings.append(Finding(f"key {key} is missing"))
        elif key not in laid_out.key_values:
            notes.append(f"key {key} is in the file alone")
        elif stored[key] != laid_out.key_values[key]:
            found = checkpoint.metadata[key]
            findings.append(_value_finding(key, found, laid_out.key_values[key], stored[key]))
    return findings, notes


def _value_finding(key: str, found: Any, wanted: bytes | memoryview, stored: memoryview) -> Finding:
    what = f"key {key} is not the source's"
    if wanted[:4] != stored[:4]:
        types = (int.from_bytes(raw[:4], "little") for raw in (stored, wanted))
        return Finding(f"key {key} is of another type than the source's", None, *(f"type {code}" for code in types))
    expected = value_of(memoryview(wanted))
    if not isinstance(found, GgufArray):
        return Finding(
            what, None, *(f"{side:g}" if isinstance(side, float) else str(side)[:80] for side in (found, expected))
        )
    if len(found) != len(expected):
        return Finding(what, None, f"{len(found)} elements", str(len(expected)))
    index = next((i for i, (one, other) in enumerate(zip(found, expected, strict=True)) if one != other), None)
    if index is None:
        return Finding(f"key {key} is of another type than the source's: its elements are")
    return Finding(f"{what}: element {index}", None, *(repr(side[index])[:80] for side in (found, expected)))


def _ggjt_metadata(checkpoint: Checkpoint, laid_out: LaidOut) -> tuple[list[Finding], list[str]]:
    [(_, header), *_] = laid_out.chunks
    fields = dict(
        zip(
            ("n_vocab", "n_embd", "n_mult", "n_head", "n_layer", "n_rot"),
            struct.unpack_from("<6I", header, 8),
            strict=True,
        )
    )
    metadata = checkpoint.metadata
    findings = [
        Finding(f"{name} is not the source's", None, str(metadata[name]), str(value))
        for name, value in fields.items()
        if metadata[name] != value
    ]
    tokens, scores = metadata["tokens"], metadata.get("scores")
    for index, (token, score) in enumerate(_ggjt_tokens(header, 36, fields["n_vocab"])):
        if index >= len(tokens):
            break
        if tokens[index] != token:
            findings.append(Finding(f"token {index} is not the source's", None, repr(tokens[index]), repr(token)))
            break
        if scores is not None and scores[index] != score:
            what = f"the score of token {index} is not the source's"
            findings.append(Finding(what, None, f"{scores[index]:g}", f"{score:g}"))
            break
    return findings, []


def _ggjt_tokens(header: bytes, at: int, count: int) -> Iterator[tuple[bytes, float]]:
    for _ in range(count):
        length = int.from_bytes(header[at : at + 4], "little")
        end = at + 4 + length
        yield header[at + 4 : end], struct.unpack_from("<f", header, end)[0]
        at = end + 4
