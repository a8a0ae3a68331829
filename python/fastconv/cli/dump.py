"""--dump and --dump-single: what the old converter showed, with today's checks."""

from __future__ import annotations

from dataclasses import fields

from fastconv.cli.streams import say
from fastconv.request import ConvertRequest


def model(request: ConvertRequest, *, as_json: bool) -> int:
    """Prints the model under canonical names, once it has been proven complete."""
    from fastconv.architecture.canonical import canonical_model
    from fastconv.checkpoint.open import open_checkpoint
    from fastconv.cli import inspect_command
    from fastconv.cli.report import json_text, table, text_of
    from fastconv.layout.targets import given_by

    found = canonical_model(open_checkpoint(request.source), given_by(request))
    hparams = {field.name: getattr(found.hparams, field.name) for field in fields(found.hparams)}
    if as_json:
        tensors = [
            {"name": name, "type": tensor.dtype, "shape": tensor.shape, "source": found.source_names[name]}
            for name, tensor in found.tensors.items()
        ]
        say(json_text({"hyperparameters": hparams, "tensors": tensors}, inspect_command.plain))
        return 0
    say(text_of(f"{name} = {value}" for name, value in hparams.items()))
    rows = [
        (name, tensor.dtype, " x ".join(map(str, tensor.shape)), found.source_names[name])
        for name, tensor in found.tensors.items()
    ]
    say(text_of(table(rows)))
    return 0


def single(request: ConvertRequest, *, as_json: bool) -> int:
    """Prints what one file (or folder) holds, as stored."""
    from fastconv.cli import inspect_command
    from fastconv.inspection import inspect

    say((inspect_command.as_json if as_json else inspect_command.as_text)(inspect(request.source)))
    return 0
