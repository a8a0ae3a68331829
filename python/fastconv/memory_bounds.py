"""What a conversion may take of memory where the request or a control group bounds it. Reads sizes, no tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastconv import engine
from fastconv.architecture.spec import NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.control_group import memory_room
from fastconv.errors import PlanError
from fastconv.plan.job import TensorJob
from fastconv.request import ConvertRequest
from fastconv.vocab.load import tokenizer_file

# Room that no run fills, and what one takes that neither a file backs nor the engine counts.
_AMPLE_BYTES = 1 << 30
_BESIDE_SCRATCH_BYTES = 16 << 20
# What Python and the libraries for tokenizers need for a byte of a tokenizer: 9 to 17 measured, of 4 to 17 MB of JSON.
_VOCABULARY_GROWTH = 20
# Where tokenizer files are made of a vocabulary: what that imports, and 29 measured.
_TOKENIZER_FILES_BYTES, _TOKENIZER_FILES_GROWTH = 28 << 20, 32


def scratch_bound(request: ConvertRequest, jobs: Sequence[TensorJob]) -> int | None:
    """Bytes of scratch that the request and the control group of the process leave, None where neither has a bound.

    Raises PlanError where that is too little for the jobs.
    """
    room = memory_room()
    left = None if room is None or room.free > _AMPLE_BYTES else room.free - _BESIDE_SCRATCH_BYTES
    bounds = [bound for bound in (request.max_memory, left) if bound is not None]
    if not bounds:
        return None
    least = engine.least_memory(jobs)
    if request.max_memory is not None and least > request.max_memory:
        raise PlanError(
            "--max-memory is too little for this conversion",
            found=f"{request.max_memory} bytes",
            expected=f"at least {least}",
        )
    if room is not None:
        room.check(least + _BESIDE_SCRATCH_BYTES, "this conversion")
    return min(bounds)


def check_vocabulary_room(
    request: ConvertRequest, checkpoint: Checkpoint, model: NamedModel, *, is_written: bool
) -> None:
    """Raises PlanError where a control group would have the process killed for the objects of the vocabulary.

    is_written: whether the output file holds it; otherwise tokenizer files may be made of one that is in the source.
    """
    room = memory_room()
    is_embedded = checkpoint.is_self_contained and request.vocab_dir is None
    if room is None or not (is_written or (is_embedded and request.to != "gguf")):
        return
    if is_embedded:
        file = checkpoint.path
        if checkpoint.format == "gguf":
            n_bytes = sum(value.nbytes for key, value in checkpoint.encoded.items() if key.startswith("tokenizer."))
        else:
            n_bytes = sum(8 + len(token) for token in checkpoint.metadata["tokens"])
    else:
        file = tokenizer_file(request.vocab_dir or model.directory, request.vocab_kind)
        n_bytes = os.path.getsize(file)
    needed = _VOCABULARY_GROWTH * n_bytes
    if not is_written:
        needed = _TOKENIZER_FILES_BYTES + _TOKENIZER_FILES_GROWTH * n_bytes
    room.check(needed, "the vocabulary", file)
