"""Checkpoints from before torch's zip format (1.6, 2020): read whole, by torch itself, where it is installed."""

from __future__ import annotations

import pickle
import struct

from fastconv.checkpoint.lazy_tensor import LazyTensor
from fastconv.checkpoint.state_dict import find_state_dict
from fastconv.checkpoint.storage import ArrayStorage, FileStorage
from fastconv.checkpoint.tensor_globals import DTYPES
from fastconv.errors import CheckpointError

# What torch's restricted unpickler raises on files that it will not or cannot read.
_TORCH_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)


def read_torch_legacy(storage: FileStorage) -> dict[str, LazyTensor]:
    """The tensors of a pre-zip checkpoint, in memory. Raises CheckpointError if torch is absent or refuses the file.

    Peak memory: the file's size.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            "is a checkpoint of PyTorch before 1.6, which only torch reads",
            file=storage.path,
            fix="pip install fastconv[torch]",
        ) from None
    try:
        with open(storage.path, "rb") as file:  # by its path, torch would judge it by its extension
            root = torch.load(file, map_location="cpu", weights_only=True)
    except _TORCH_ERRORS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"torch cannot read it ({reason[:300]})", file=storage.path) from None
    arrays: dict[int, ArrayStorage] = {}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in find_state_dict(root, torch.Tensor, storage.path).items():
        dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided:
            raise CheckpointError(
                "is no plain tensor",
                file=storage.path,
                tensor=name,
                found=str(tensor.dtype),
            )
        untyped = tensor.untyped_storage()
        address = untyped.data_ptr()
        if address not in arrays:
            flat = torch.empty(0, dtype=torch.uint8).set_(untyped)
            arrays[address] = ArrayStorage(flat.numpy(), storage.path)
        offset = int(tensor.storage_offset()) * tensor.element_size()
        try:
            tensors[name] = LazyTensor.stored(
                name,
                dtype,
                tuple(tensor.shape),
                arrays[address],
                offset,
                tensor.stride(),
            )
        except ValueError as error:
            raise CheckpointError(str(error), file=storage.path, fix="save it again after .contiguous()") from None
    return tensors
