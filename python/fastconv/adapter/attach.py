"""Adapters onto a canonical model: which tensors are replaced, and which updates are added to them.

Every tensor of every adapter is placed, or AdapterError names it. No weights are read, except where the adapters say
the same thing twice and where they may say nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from fastconv.adapter.delta import AdapterSummary, LoraDelta, MergedTensor
from fastconv.adapter.lit_settings import LitLoraOptions
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.content import is_zero, same_content
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.storage import ArrayStorage
from fastconv.errors import AdapterError, UsageError
from fastconv.record import record

if TYPE_CHECKING:
    from fastconv.adapter.lit_lora import LitLora
    from fastconv.adapter.peft import LoraPair, PeftAdapter, WholeTensor

_F32_MAX = float.fromhex("0x1.fffffep127")


Model = TypeVar("Model", bound=NamedModel)


@record
class AdaptedModel(Generic[Model]):
    """A model and what is done to its tensors.

    model: with the vocabulary and tying that the adapters left. tensors: by canonical name, in the model's order;
    lm_head.weight comes last where an adapter untied it. summaries: one per adapter.
    """

    model: Model
    tensors: dict[str, MergedTensor]
    summaries: tuple[AdapterSummary, ...]


def attach_adapters(
    model: Model,
    adapters: Sequence[tuple[str | os.PathLike[str], float]] = (),
    lit_options: LitLoraOptions | None = None,
) -> AdaptedModel[Model]:
    """Adds up adapters, each with the user's factor, in the order given; without any, the model as it is.

    The factor multiplies B A, with DoRA before the rows are rescaled, as in PEFT; whole tensors it does not reach. An
    update of lm_head or of the embedding of a model that shares them goes to that one alone. Raises AdapterError where
    an adapter cannot be applied whole, UsageError for a factor that is not finite. lit_options: of Lit-GPT's LoRAs.
    """
    opened: list[tuple[PeftAdapter | LitLora, float]] = []
    for path, factor in adapters:
        from fastconv.adapter.open import open_adapter

        if not math.isfinite(factor):
            raise UsageError("the scale of an adapter is not finite", file=path, found=factor)
        opened.append((open_adapter(os.fspath(path), model, lit_options or LitLoraOptions()), float(factor)))
    merge = _Merge(model)
    summaries = tuple(merge.add(adapter, factor) for adapter, factor in opened)
    merge.finish()
    tied = {name: stand_in for name, stand_in in model.tied.items() if name not in merge.tensors}
    return AdaptedModel(model.with_vocabulary(merge.n_vocab(), tied), merge.tensors, summaries)


class _Merge:
    def __init__(self, model: NamedModel) -> None:
        self.model = model
        self.tensors = {name: MergedTensor(tensor) for name, tensor in model.tensors.items()}
        self.tied = model.tied
        self.embedding = model.per_token[0] if model.per_token else None
        self.replaced: dict[str, str] = {}  # canonical name -> file of the adapter that replaced it

    def add(self, adapter: PeftAdapter | LitLora, factor: float) -> AdapterSummary:
        from fastconv.adapter.peft import PeftAdapter

        return self._add_peft(adapter, factor) if isinstance(adapter, PeftAdapter) else self._add_lit(adapter, factor)

    def _add_peft(self, adapter: PeftAdapter, factor: float) -> AdapterSummary:
        vocab_before = self.n_vocab()
        if not self.model.per_token:
            self._check_unknown(adapter)
        replaced: set[str] = set()
        for whole in adapter.whole:
            name = self._canonical(adapter, whole.name, whole.tensor)
            _check_once(adapter, name, replaced, whole.tensor, "is replaced twice")
            self._replace(adapter, whole, name)
        scales: dict[float, None] = {}
        updated: set[str] = set()
        targets: list[str] = []
        for pair in adapter.pairs:
            name = self._canonical(adapter, f"{pair.module}.weight", pair.b)
            _check_once(adapter, name, updated, pair.b, "is updated twice")
            scale = factor * adapter.config.scale_of(pair.module)
            if abs(scale) > _F32_MAX:
                raise AdapterError("the scale is too large", file=adapter.file, tensor=pair.b.name, found=scale)
            scales[scale] = None
            targets += self._add_pair(adapter, pair, name, scale)
        warnings = _idle(adapter, factor)
        if factor != 1 and replaced:
            warnings.append(f"scale {factor:g} does not reach {len(replaced)} tensors that are replaced whole")
        if self.n_vocab() != vocab_before:
            warnings.append(
                f"changes the vocabulary from {vocab_before} to {self.n_vocab()} tokens; its tokenizer must match"
            )
        return AdapterSummary(adapter.path, adapter.n_tensors, tuple(scales), tuple(warnings), tuple(targets))

    def _add_lit(self, lora: LitLora, factor: float) -> AdapterSummary:
        scale = factor * lora.scale
        if abs(scale) > _F32_MAX:
            raise AdapterError("the scale is too large", file=lora.file, found=scale)
        targets: dict[str, None] = {}
        for update in lora.updates if scale else ():
            self._untie(update.name)
            shape = self.tensors[update.name].base.shape
            if shape != (update.b.shape[0], update.a.shape[1]):
                raise AdapterError("does not fit the model", file=lora.file, tensor=update.stored, expected=list(shape))
            self._append(update.name, LoraDelta(update.b, update.a, scale, None, lora.path))
            targets[update.name] = None
        warnings = [*lora.warnings, *(["changes nothing: its scale is 0"] if scale == 0 else [])]
        if scale and all(is_zero(b) or is_zero(a) for a, b in lora.factors):
            warnings.append("changes nothing: every B is zero")
        return AdapterSummary(lora.path, lora.n_tensors, (scale,), tuple(warnings), tuple(targets))

    def finish(self) -> None:
        """Raises AdapterError where tensors disagree about the vocabulary. Unties only what has come to differ."""
        for name, stand_in in self.tied.items():
            head, embedding = self.tensors.get(name), self.tensors[stand_in]
            if head is None or head.deltas or embedding.deltas:
                continue
            if same_content(head.base, embedding.base):
                del self.tensors[name]
        n_vocab = self.n_vocab()
        for name in self.model.per_token:
            merged = self.tensors.get(name)
            if merged is not None and merged.base.shape[0] != n_vocab:
                raise AdapterError(
                    "the vocabulary was resized for one tensor only",
                    file=next(iter(self.replaced.values())),
                    tensor=name,
                    found=f"{merged.base.shape[0]} rows",
                    expected=n_vocab,
                    fix="the adapter must hold the embedding and lm_head",
                )

    def n_vocab(self) -> int | None:
        return self.tensors[self.embedding].base.shape[0] if self.embedding else None

    def _check_unknown(self, adapter: PeftAdapter) -> None:
        """Of a family without a table it is not known which tensors it shares, nor which it stores transposed."""
        n_vocab = self.model.config.get("vocab_size")
        may_share = self.model.config.get("tie_word_embeddings") is not False
        names = (*(whole.name for whole in adapter.whole), *(f"{pair.module}.weight" for pair in adapter.pairs))
        for name in names:
            tensor = self.model.tensors.get(name)
            if may_share and tensor is not None and tensor.shape[0] == n_vocab:
                raise AdapterError(
                    "may be shared with another tensor, which only a table of the family could tell",
                    file=adapter.file,
                    tensor=name,
                    fix="merge this adapter with PEFT",
                )
        if adapter.config.fan_in_fan_out:
            raise AdapterError(
                "is for layers that store their weights transposed, which only a table of the family could tell",
                file=adapter.file,
                found="fan_in_fan_out = true",
                fix="merge this adapter with PEFT",
            )

    def _canonical(self, adapter: PeftAdapter, name: str, tensor: LazyTensor) -> str:
        """Adapters of a bare LlamaModel lack the leading "model."."""
        for candidate in (name, f"model.{name}"):
            if candidate in self.tensors or candidate in self.tied:
                return candidate
        raise AdapterError(
            "the model has no such tensor", file=adapter.file, tensor=tensor.name, expected=f"a {name} in the model"
        )

    def _untie(self, name: str) -> None:
        for alias, stand_in in self.tied.items():
            if name in (alias, stand_in) and alias not in self.tensors:
                self.tensors[alias] = MergedTensor(self.tensors[stand_in].base.renamed(alias))

    def _replace(self, adapter: PeftAdapter, whole: WholeTensor, name: str) -> None:
        self._untie(name)
        before = self.tensors[name]
        expected = self.model.tensors[self.model.tied.get(name, name)].shape
        found = whole.tensor.shape
        resized = name in self.model.per_token and found[:1] != (0,) and found[1:] == expected[1:]
        if found != expected and not (resized and not before.deltas):
            raise _shape_error(adapter, whole.tensor, expected)
        if name in self.replaced and not same_content(before.base, whole.tensor):
            raise AdapterError(
                "is replaced whole by two adapters",
                file=adapter.file,
                tensor=whole.tensor.name,
                found=f"also by {self.replaced[name]}",
            )
        if before.deltas and not whole.is_base:
            raise AdapterError(
                "would discard what an earlier adapter added",
                file=adapter.file,
                tensor=whole.tensor.name,
                found=f"an update by {before.deltas[0].adapter}",
                fix="give this adapter first",
            )
        self.replaced[name] = adapter.file
        self.tensors[name] = replace(before, base=whole.tensor.renamed(name))

    def _add_pair(self, adapter: PeftAdapter, pair: LoraPair, name: str, scale: float) -> list[str]:
        """The canonical names of what the pair is added to."""
        if pair.is_embedding is not (name == self.embedding):
            problem = "the module is no embedding" if pair.is_embedding else "the embedding has factors of its own kind"
            raise AdapterError(problem, file=adapter.file, tensor=pair.a.name)
        shape = self.tensors[self.tied.get(name, name) if name not in self.tensors else name].base.shape
        if len(shape) != 2:
            raise AdapterError("its target is not a matrix", file=adapter.file, tensor=pair.b.name, found=list(shape))
        rank = adapter.config.rank_of(pair.module)
        n_in, n_out = shape[::-1]
        if pair.is_embedding:
            n_in, n_out = n_out, n_in
        _check_shape(adapter, pair.a, (rank, n_in))
        _check_shape(adapter, pair.b, (n_out, rank))
        a, b = (pair.b.transposed(), pair.a.transposed()) if pair.is_embedding else (pair.a, pair.b)
        magnitude = None
        if pair.magnitude is not None:
            magnitude = self._magnitude(adapter, pair, pair.magnitude, n_out)
        targets = self._add_bias(adapter, pair, pair.b_bias, scale, n_out) if pair.b_bias is not None else []
        if scale == 0 and magnitude is None:
            return targets
        self._untie(name)
        self._append(name, LoraDelta(b, a, scale, magnitude, adapter.path))
        return [name, *targets]

    def _magnitude(self, adapter: PeftAdapter, pair: LoraPair, magnitude: LazyTensor, n_out: int) -> LazyTensor:
        if pair.is_embedding:
            raise AdapterError(
                "DoRA on an embedding rescales its columns: not supported",
                file=adapter.file,
                tensor=magnitude.name,
                fix="merge this adapter with PEFT first",
            )
        _check_shape(adapter, magnitude, (n_out,))
        return replace(magnitude.as_column(), shape=(n_out, 1))

    def _add_bias(self, adapter: PeftAdapter, pair: LoraPair, bias: LazyTensor, scale: float, n_out: int) -> list[str]:
        """The bias of B as the update of rank one b x [1]."""
        name = self._canonical(adapter, f"{pair.module}.bias", bias)
        _check_shape(adapter, bias, (n_out,))
        if scale == 0:
            return []
        one = LazyTensor.stored("one", "f32", (1, 1), ArrayStorage(np.ones((1, 1), np.float32)), 0)
        self._append(name, LoraDelta(replace(bias.as_column(), shape=(n_out, 1)), one, scale, None, adapter.path))
        return [name]

    def _append(self, name: str, delta: LoraDelta) -> None:
        before = self.tensors[name]
        base = before.base.as_column() if len(before.base.shape) == 1 else before.base
        self.tensors[name] = MergedTensor(base, (*before.deltas, delta))


def _check_once(adapter: PeftAdapter, name: str, seen: set[str], tensor: LazyTensor, problem: str) -> None:
    if name in seen:
        raise AdapterError(problem, file=adapter.file, tensor=tensor.name, found=f"another name of {name}")
    seen.add(name)


def _check_shape(adapter: PeftAdapter, tensor: LazyTensor, expected: tuple[int, ...]) -> None:
    if tensor.shape != expected:
        raise _shape_error(adapter, tensor, expected)


def _shape_error(adapter: PeftAdapter, tensor: LazyTensor, expected: tuple[int, ...]) -> AdapterError:
    fix = None
    if 0 in tensor.shape:
        fix = "the adapter was saved from a partitioned model without gathering it"
    elif len(tensor.shape) > 2:
        fix = "updates of convolutions are not supported"
    return AdapterError(
        "has another shape than the model and the adapter's configuration say",
        file=adapter.file,
        tensor=tensor.name,
        found=list(tensor.shape),
        expected=list(expected),
        fix=fix,
    )


def _idle(adapter: PeftAdapter, factor: float) -> list[str]:
    """A warning for an adapter that leaves every weight as it was."""
    if adapter.whole or adapter.config.use_dora:
        return []
    if factor == 0 or all(adapter.config.scale_of(pair.module) == 0 for pair in adapter.pairs):
        return ["changes nothing: its scale is 0"]
    if any(pair.b_bias is not None and not is_zero(pair.b_bias) for pair in adapter.pairs):
        return []
    if all(is_zero(pair.b) or is_zero(pair.a) for pair in adapter.pairs):
        return ["changes nothing: every B is zero"]
    return []
