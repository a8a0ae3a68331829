"""--dump and --dump-single: what the old converter showed, with today's checks."""

from __future__ import annotations

from fastconv.request import ConvertRequest


def model(request: ConvertRequest) -> int:
    """Prints the model under canonical names, once it has been proven complete."""
    from fastconv.architecture.canonical import canonical_model
    from fastconv.checkpoint.open import open_checkpoint
    from fastconv.cli.report import table

    found = canonical_model(open_checkpoint(request.source), request.n_ctx)
    print("\n".join(f"{name} = {getattr(found.hparams, name)}" for name in found.hparams.__slots__))
    rows = [
        (name, tensor.dtype, " x ".join(map(str, tensor.shape)), found.source_names[name])
        for name, tensor in found.tensors.items()
    ]
    print("\n".join(table(rows)))
    return 0


def single(request: ConvertRequest) -> int:
    """Prints what one file (or folder) holds, as stored."""
    from fastconv.cli.inspect_command import as_text
    from fastconv.inspection import inspect

    print(as_text(inspect(request.source)))
    return 0
