"""The rows of Lit-GPT's tensors and of Hugging Face's, matched: one description for reading, writing and adapters."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from fastconv.architecture.litgpt.namings import SHAPES, Module, Naming
from fastconv.architecture.litgpt.rows import grouped_from_split, split_from_grouped
from fastconv.record import record

SPLIT, INTERLEAVED = "split", "interleaved"
"""Layouts of the fused QKV: since 0.5.5, and before."""

_QKV = {SPLIT: "attn.qkv", INTERLEAVED: "attn.attn"}


@record(eq=True)
class Sizes:
    """Sizes in rows or columns. n_q, n_kv: rows of q, and of k. head_size: 0 where it is not known. n_norm_q, n_norm_k:
    of the norms of q and k."""

    n_layer: int
    n_vocab: int
    n_embd: int
    n_q: int
    n_kv: int
    n_ff: int = 0
    n_expert: int = 0
    n_ff_expert: int = 0
    head_size: int = 0
    n_norm_q: int = 0
    n_norm_k: int = 0

    @property
    def n_qkv(self) -> int:
        return self.n_q + 2 * self.n_kv


@record
class SharedRows:
    """Tensors that hold the same rows. lit, hf: names, to be joined; lit_shapes, hf_shapes: of each.

    rows: joined Hugging Face row r is joined Lit row rows[r]; None: in the same order.
    """

    lit: tuple[str, ...]
    hf: tuple[str, ...]
    lit_shapes: tuple[tuple[int, ...], ...]
    hf_shapes: tuple[tuple[int, ...], ...]
    rows: array[int] | None

    @property
    def n_rows(self) -> int:
        return sum(shape[0] for shape in self.lit_shapes)

    def hf_spans(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """(name, shape, first joined row) of every Hugging Face tensor."""
        return _spans(self.hf, self.hf_shapes)

    def lit_spans(self) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """(name, shape, first joined row) of every Lit-GPT tensor."""
        return _spans(self.lit, self.lit_shapes)


def shared_rows(naming: Naming, sizes: Sizes, layout: str) -> Iterator[SharedRows]:
    """Every tensor of a model, in the order of the layers. layout: of Lit-GPT's QKV; needs sizes.head_size where it
    differs from Hugging Face's."""
    orders: dict[bool, array[int] | None] = {}

    def order(grouped: bool) -> array[int] | None:
        if grouped not in orders:
            orders[grouped] = _qkv_order(sizes, layout, grouped)
        return orders[grouped]

    def of(module: Module, prefixes: tuple[str, str], expert: int = 0) -> Iterator[SharedRows]:
        is_qkv = module.lit == (_QKV[SPLIT],)
        for parameter in module.parameters:
            wanted = [SHAPES[name] if parameter == "weight" else SHAPES[name][:1] for name in module.lit]
            lit_shapes = tuple(tuple(getattr(sizes, attribute) for attribute in shape) for shape in wanted)
            lit = (_QKV[layout],) if is_qkv else module.lit
            rest = lit_shapes[0][1:]
            n_rows = sum(shape[0] for shape in lit_shapes)
            parts = [sizes.n_q, sizes.n_kv, sizes.n_kv] if len(module.hf) == 3 else [n_rows]
            yield SharedRows(
                tuple(f"{prefixes[0]}{name.format(expert=expert)}.{parameter}" for name in lit),
                tuple(f"{prefixes[1]}{name.format(expert=expert)}.{parameter}" for name in module.hf),
                lit_shapes,
                tuple((n, *rest) for n in parts),
                order(module.grouped) if is_qkv else None,
            )

    for module in naming.top:
        yield from of(module, ("", ""))
    for layer in range(sizes.n_layer):
        prefixes = (f"transformer.h.{layer}.", f"{naming.layers}{layer}.")
        for module in naming.per_layer:
            per_expert = "{expert}" in module.lit[0]
            for expert in range(sizes.n_expert if per_expert else 1):
                yield from of(module, prefixes, expert)


def head_names(naming: Naming) -> tuple[str, str]:
    """Hugging Face's names of the embedding and of the head."""
    return f"{naming.top[0].hf[0]}.weight", f"{naming.top[-1].hf[0]}.weight"


def _qkv_order(sizes: Sizes, layout: str, grouped: bool) -> array[int] | None:
    if (layout == INTERLEAVED) == grouped:
        return None
    order = grouped_from_split if grouped else split_from_grouped
    return order(sizes.n_q, sizes.n_kv, sizes.head_size)


def _spans(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    at = 0
    for name, shape in zip(names, shapes, strict=True):
        yield name, shape, at
        at += shape[0]
