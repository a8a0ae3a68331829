"""What stands beside the weights of a model folder, and decides what they mean: hyperparameters and vocabulary.

Both sides are read as a conversion reads them and compared by what they say, for programs write the same in many ways.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.hparams import Hyperparameters
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.conversion import vocabulary_of
from fastconv.errors import ArchitectureError, CheckpointError, VocabularyError
from fastconv.finding import Finding
from fastconv.layout.targets import given_by
from fastconv.request import ConvertRequest
from fastconv.vocab.load import load_vocabulary
from fastconv.vocab.vocabulary import Vocabulary

# The tensors tell, or only some formats have them.
_TOLD_ELSEWHERE = ("n_vocab", "tied_embeddings", "attention_bias", "mlp_bias", "n_mult")
_SAME_FLOAT = 1e-6  # formats keep them in f32 or as text


def held_against(
    checkpoint: Checkpoint, source: Checkpoint, request: ConvertRequest
) -> tuple[list[Finding], list[str]]:
    """What differs, and what could not be compared, a line each. request: of the source."""
    try:
        found = canonical_model(checkpoint)
        wanted = canonical_model(source, given_by(request))
    except (ArchitectureError, CheckpointError) as error:
        return [], [f"settings and vocabulary were not held against the source's ({error.what})"]
    findings = list(_settings(found.hparams, wanted.hparams, has_rope_scaling=not source.is_self_contained))
    try:
        stored = load_vocabulary(found.directory, found.hparams.n_vocab, request.vocab_kind, config=found.config)
        vocabulary = vocabulary_of(request, source, wanted)
    except (VocabularyError, CheckpointError) as error:
        return findings, [f"its vocabulary was not held against the source's ({error.what})"]
    return [*findings, *_vocabulary(stored, vocabulary)], []


def _settings(found: Hyperparameters, wanted: Hyperparameters, *, has_rope_scaling: bool) -> Iterator[Finding]:
    for field in dataclasses.fields(found):
        if field.name in _TOLD_ELSEWHERE or (field.name == "rope_scaling" and not has_rope_scaling):
            continue
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        same = math.isclose(one, other, rel_tol=_SAME_FLOAT) if isinstance(one, float) else one == other
        if not same:
            yield Finding(f"{field.name} of its configuration is not the source's", None, str(one), str(other))


def _vocabulary(found: Vocabulary, wanted: Vocabulary) -> Iterator[Finding]:
    if found.kind != wanted.kind:
        yield Finding("its vocabulary is of another kind than the source's", None, found.kind, wanted.kind)
        return
    for what, ours, theirs in (
        ("token", found.tokens, wanted.tokens),
        ("the score of token", found.scores, wanted.scores),
        ("merge", found.merges, wanted.merges),
    ):
        pairs = enumerate(zip(ours, theirs, strict=False))
        differing = next(((index, one, other) for index, (one, other) in pairs if one != other), None)
        if differing is not None:
            index, one, other = differing
            yield Finding(f"{what} {index} is not the source's", None, repr(one), repr(other))
    for name in found.special_ids.keys() & wanted.special_ids.keys():
        if found.special_ids[name] != wanted.special_ids[name]:
            sides = (str(side.special_ids[name]) for side in (found, wanted))
            yield Finding(f"the {name} token is not the source's", None, *sides)
