"""A LoRA trained by Lit-GPT or LitGPT, of any era -> low-rank updates of Hugging Face's tensors.

A plain layer's update is scale * B A. In a fused QKV each enabled part has its own rows of A and of B; where B's rows
lie in the weight depends on the code that trained it, because its forward pass used the same rows. Sources: LitGPT
0.5.13 and 0.5.3, lora.py (LoRAQKVLinear.zero_pad and conv1d), and Lit-GPT's lora.py of 2023.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from fastconv.adapter.delta import rows_or_zero
from fastconv.adapter.lit_files import BASE_FILE, LORA_FILES
from fastconv.adapter.lit_settings import CHUNKED, CONTIGUOUS, LitLoraOptions, read_settings
from fastconv.adapter.peft import check_type
from fastconv.architecture.litgpt.mapping import INTERLEAVED, SPLIT, SharedRows, Sizes, shared_rows
from fastconv.architecture.litgpt.marks import lit_names
from fastconv.architecture.litgpt.model import model_class_and_sizes
from fastconv.architecture.litgpt.rows import split_from_grouped
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.open import open_checkpoint
from fastconv.errors import AdapterError
from fastconv.record import record

_PART = re.compile(r"(.+)\.(lora_[AB])")


@record
class LoraUpdate:
    """W += scale * B A of one tensor. name: canonical. b: a row per row of it. stored: Lit-GPT's name of B."""

    name: str
    b: LazyTensor
    a: LazyTensor
    stored: str


@record
class LitLora:
    """An opened LoRA, every one of its n_tensors tensors in updates. scale: alpha / r."""

    path: str
    file: str
    n_tensors: int
    scale: float
    updates: tuple[LoraUpdate, ...]
    warnings: tuple[str, ...]
    factors: tuple[tuple[LazyTensor, LazyTensor], ...]


def open_lit_lora(path: str, file: str, model: NamedModel, options: LitLoraOptions) -> LitLora:
    """file: see lit_lora_file. Raises AdapterError where a tensor has no place in the model, shapes contradict each
    other or the settings, or something is not said that must be known."""
    stored = lit_names(open_checkpoint(file).tensors)
    pairs = _pairs(file, stored, model)
    is_split = any(".attn.qkv." in name for name in stored)
    if is_split and any(".attn.attn." in name for name in stored):
        raise AdapterError("has LoRAs of both layouts of QKV", file=file)
    settings = read_settings(file, options)
    rank = _rank(file, pairs, settings.r)
    if settings.alpha is None:
        raise AdapterError(
            "does not say its alpha, by which updates are scaled", file=file, fix="give --lora-alpha (often 16)"
        )
    entry, sizes = model_class_and_sizes(model)
    layout = SPLIT if is_split else INTERLEAVED
    updates: list[LoraUpdate] = []
    used: set[str] = set()
    for shared in shared_rows(entry.naming, sizes, layout):
        for name, shape, begin in shared.lit_spans():
            module = name.removesuffix(".weight")
            if module not in pairs or not name.endswith(".weight"):
                continue
            a, b = pairs[module]
            used.add(module)
            if ".attn.qkv" in module or ".attn.attn" in module:
                parts = _qkv_parts(file, a, b, rank, sizes, is_split, settings)
            else:
                _check(file, a, (rank, shape[1]))
                _check(file, b, (shape[0], rank))
                parts = [(a, b, np.arange(begin, begin + shape[0]))]
            updates += _updates(shared, parts, b.name)
    odd = next((module for module in pairs if module not in used), None)
    if odd is not None:
        raise AdapterError(
            "updates what the model has not got", file=file, tensor=pairs[odd][1].name, fix="is this its base?"
        )
    warnings: tuple[str, ...] = ()
    if not is_split and settings.layout is None and sizes.n_q != sizes.n_kv and any(".attn.attn" in m for m in pairs):
        # Nothing in the file tells; those two months' grouped models are few.
        warnings = (f"taken for trained after 14 August 2023; else give --lora-layout {CHUNKED}",)
    scale = settings.alpha / rank
    return LitLora(path, file, 2 * len(pairs), scale, tuple(updates), warnings, tuple(pairs.values()))


def _pairs(file: str, stored: Mapping[str, LazyTensor], model: NamedModel) -> dict[str, tuple[LazyTensor, LazyTensor]]:
    """(A, B) by module. Raises AdapterError where one is missing, or where there is more than a LoRA."""
    factors: dict[str, dict[str, LazyTensor]] = {}
    others: list[str] = []
    for name, tensor in stored.items():
        match = _PART.fullmatch(name)
        if match is None:
            others.append(name)
            continue
        check_type(file, tensor)
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise AdapterError("is no matrix", file=file, tensor=name, found=list(tensor.shape))
        factors.setdefault(match[1], {})[match[2]] = tensor
    if not factors:
        fix = f"is it merged? then it is a model, not a LoRA; a LoRA is in {' or '.join(LORA_FILES)}"
        raise AdapterError("holds no LoRA", file=file, found=", ".join(others[:2]), fix=fix)
    sources = {path for tensor in model.tensors.values() for path in tensor.files}
    if others and not any(os.path.samefile(file, source) for source in sources):
        fix = "if the file holds the base too, give it as the source as well"
        raise AdapterError("is not a tensor of a LoRA", file=file, tensor=others[0], fix=fix)
    for source in sources:
        beside = os.path.dirname(os.path.abspath(source)) == os.path.dirname(os.path.abspath(file))
        if beside and (os.path.basename(source), os.path.basename(file)) == (BASE_FILE, LORA_FILES[0]):
            fix = "leave --lora out, or give the base"
            raise AdapterError("is merged already into the model beside it", file=file, found=source, fix=fix)
    for found in factors.values():
        for part in ("lora_A", "lora_B"):
            if part not in found:
                raise AdapterError(f"has no {part} beside it", file=file, tensor=next(iter(found.values())).name)
    return {module: (found["lora_A"], found["lora_B"]) for module, found in factors.items()}


def _rank(file: str, pairs: Mapping[str, tuple[LazyTensor, LazyTensor]], stated: int | None) -> int:
    first = next(iter(pairs.values()))[1]
    rank = first.shape[1]
    for _, b in pairs.values():
        if b.shape[1] != rank:
            raise AdapterError(
                "has another rank than the others", file=file, tensor=b.name, found=b.shape[1], expected=rank
            )
    if stated is not None and stated != rank:
        raise AdapterError("has another rank than stated", file=file, tensor=first.name, found=rank, expected=stated)
    return rank


_Placed: TypeAlias = "tuple[LazyTensor, LazyTensor, np.ndarray]"
"""A, B, and the row of the joined Lit-GPT weights that each row of B is added to."""


def _qkv_parts(
    file: str, a: LazyTensor, b: LazyTensor, rank: int, sizes: Sizes, is_split: bool, settings: LitLoraOptions
) -> list[_Placed]:
    n_parts, odd = divmod(a.shape[0], rank)
    if odd or not 1 <= n_parts <= 3 or a.shape[1] != sizes.n_embd:
        raise AdapterError(
            "has another shape than a LoRA of QKV",
            file=file,
            tensor=a.name,
            found=list(a.shape),
            expected=f"1 to 3 times {rank} rows of {sizes.n_embd}",
        )
    n_rows = {"q": sizes.n_q, "k": sizes.n_kv, "v": sizes.n_kv}
    enabled = _enabled(file, b, n_parts, n_rows, settings)
    placing = np.arange(sizes.n_qkv)
    lengths = [n_rows[part] for part in enabled]
    if not is_split:
        chosen = _layout(file, b, sizes, n_parts, settings)
        if chosen == INTERLEAVED:
            placing = np.array(split_from_grouped(sizes.n_q, sizes.n_kv, sizes.head_size))
        if chosen == CHUNKED:
            if b.shape[0] % n_parts:
                raise AdapterError("does not divide into equal chunks", file=file, tensor=b.name, found=b.shape[0])
            lengths = [b.shape[0] // n_parts] * n_parts
    begins = {"q": 0, "k": sizes.n_q, "v": sizes.n_q + sizes.n_kv}
    rows = np.concatenate([placing[begins[part] : begins[part] + n_rows[part]] for part in enabled])
    placed: list[_Placed] = []
    at = 0
    for index, length in enumerate(lengths):
        part_a = a.row_range(index * rank, (index + 1) * rank)
        placed.append((part_a, b.row_range(at, at + length), rows[at : at + length]))
        at += length
    return placed


def _enabled(file: str, b: LazyTensor, n_parts: int, n_rows: Mapping[str, int], settings: LitLoraOptions) -> str:
    """Which of q, k and v are updated, as letters in that order."""
    subsets = [s for s in ("q", "k", "v", "qk", "qv", "kv", "qkv") if len(s) == n_parts]
    possible = [s for s in subsets if sum(n_rows[part] for part in s) == b.shape[0]]
    if settings.qkv is not None:
        if settings.qkv not in possible:
            raise AdapterError(
                "does not update the parts that are stated",
                file=file,
                tensor=b.name,
                found=f"{b.shape[0]} rows, {n_parts} parts",
                expected=",".join(settings.qkv),
            )
        return settings.qkv
    if not possible:
        raise AdapterError("its rows are no parts of QKV", file=file, tensor=b.name, found=b.shape[0])
    if len(possible) > 1:
        raise AdapterError(
            "does not say which of q, k and v it updates",
            file=file,
            tensor=b.name,
            fix=f"give --lora-qkv {' or '.join(','.join(s) for s in possible)} (q,v unless it was changed)",
        )
    return possible[0]


def _layout(file: str, b: LazyTensor, sizes: Sizes, n_parts: int, settings: LitLoraOptions) -> str:
    """Where the rows of B lie in an interleaved weight."""
    if settings.layout is None and (n_parts == 3 or sizes.n_kv == sizes.head_size):
        return CONTIGUOUS  # all three at once were never interleaved, and of a single group both are the same
    if settings.layout is None:
        raise AdapterError(
            "does not say where its rows lie in QKV",
            file=file,
            tensor=b.name,
            fix=f"give --lora-layout: {CONTIGUOUS} if trained before 5 February 2024, else {INTERLEAVED}",
        )
    return CONTIGUOUS if n_parts == 3 and settings.layout == INTERLEAVED else settings.layout


def _updates(shared: SharedRows, parts: list[_Placed], stored: str) -> Iterator[LoraUpdate]:
    """The parts as updates of every Hugging Face tensor whose rows they reach; zero on rows that they do not."""
    for name, shape, begin in shared.hf_spans():
        lit_rows = np.arange(begin, begin + shape[0])
        if shared.rows is not None:
            lit_rows = np.array(shared.rows)[lit_rows]
        for a, b, rows in parts:
            at = np.full(shared.n_rows, -1, dtype=np.int64)
            at[rows] = np.arange(len(rows))
            index = at[lit_rows]
            if (index < 0).all():
                continue
            yield LoraUpdate(name, rows_or_zero(b, index), a, stored)


def _check(file: str, tensor: LazyTensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise AdapterError(
            "has another shape than the model says",
            file=file,
            tensor=tensor.name,
            found=list(tensor.shape),
            expected=list(expected),
        )
