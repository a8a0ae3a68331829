"""What an architecture is: a table of tensors. Adding one is adding a table (see llama.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from fastconv.architecture.hparams import Hyperparameters
from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.record import record

if TYPE_CHECKING:
    from typing_extensions import Self


@record(eq=True)
class TensorRule:
    """One kind of tensor. Names hold {layer} where the tensor stands once per layer.

    hf: canonical name. meta: name in Meta checkpoints and GGJT files. shape: attribute names of Hyperparameters,
    output dimension first. rope_heads: attribute with the number of heads whose rows Meta, GGML and GGUF interleave,
    None where all formats share one row order. join: axis along which Meta's model-parallel parts are put together,
    None: parts repeat it. when: the tensor exists in models for which this attribute is true. tied_to: canonical name
    of the tensor that stands in for it in models with tied embeddings.
    """

    hf: str
    meta: str
    shape: tuple[str, ...]
    rope_heads: str | None = None
    join: int | None = None
    when: str | None = None
    tied_to: str | None = None


@record(eq=True)
class ArchitectureSpec:
    """A family. name: as in GGUF's general.architecture. hf_classes: values of config.json's "architectures".

    rules: in the order convert.py of 2023 wrote them. ignored: source names (full-match regular expressions) that hold
    nothing a converted model needs, such as rope frequencies. hyperparameters: config.json -> Hyperparameters.
    """

    name: str
    hf_classes: tuple[str, ...]
    rules: tuple[TensorRule, ...]
    ignored: tuple[str, ...]
    hyperparameters: Callable[[dict[str, Any]], Hyperparameters]


@record(kw_only=True)
class NamedModel:
    """The hub of every conversion: Hugging Face names and row order, whatever the source was.

    tensors: in source order; lm_head.weight is absent from tied models. directory: where tokenizer files and the model
    card are. config: config.json, or the same keys drawn from what the source has instead. source_names: what the
    source called each tensor. tied: names that may be used and are not stored, with the tensors that stand in for them.
    per_token: names of the tensors with a row per token, the embedding first; () where the family is not known.
    notes: what was assumed where the source does not say it, a line each. title: what the model is called, None: as its
    directory.
    """

    tensors: dict[str, LazyTensor]
    directory: str
    config: dict[str, Any]
    source_names: dict[str, str]
    tied: dict[str, str] = field(default_factory=dict)
    per_token: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    title: str | None = None

    def with_vocabulary(self, n_vocab: int | None, tied: Mapping[str, str]) -> Self:
        """The model after adapters: with so many tokens (None: unknown), sharing these tensors still."""
        return replace(self, tied=dict(tied))


@record(kw_only=True)
class CanonicalModel(NamedModel):
    """A model whose architecture is known: complete, every tensor of the shape that the hyperparameters say."""

    spec: ArchitectureSpec
    hparams: Hyperparameters

    def with_vocabulary(self, n_vocab: int | None, tied: Mapping[str, str]) -> Self:
        shared = self.hparams.tied_embeddings and bool(tied)
        hparams = replace(self.hparams, n_vocab=n_vocab or self.hparams.n_vocab, tied_embeddings=shared)
        return replace(self, tied=dict(tied), hparams=hparams)
