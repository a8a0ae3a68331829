"""The whole job on one page: prove the run, write the headers, stream the tensors, give the files their names."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from fastconv import engine
from fastconv.adapter.attach import attach_adapters
from fastconv.adapter.delta import AdapterSummary, MergedTensor
from fastconv.architecture.canonical import canonical_model
from fastconv.architecture.spec import CanonicalModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.open import open_checkpoint
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.output_file import OutputFile, check_targets, write_error
from fastconv.layout.targets import Layout, layout_of
from fastconv.layout.write_back import WriteBack
from fastconv.plan.ftype import FileType, auto_file_type, file_type
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.plan.naming import interleaved
from fastconv.request import ConvertRequest, split_types
from fastconv.vocab.load import load_vocabulary

# Configurations, tokenizers, chat templates and model cards.
_READ_BESIDE_WEIGHTS = (".json", ".jinja", ".md", ".model", ".txt")

Progress = Callable[[int, int], None]
"""Called with (input bytes done, input bytes in all), a few times a second."""


@dataclass(frozen=True, slots=True)
class OutputSummary:
    """A finished (or planned) file. type: the file type's name. size: bytes."""

    path: str
    type: str
    size: int


@dataclass(frozen=True, slots=True)
class ConversionResult:
    """bytes_in: of the tensors read. delta_ratios: |dW| / |W| of every tensor an adapter changed, by target name."""

    outputs: tuple[OutputSummary, ...]
    bytes_in: int
    n_tensors: int
    seconds: float
    adapters: tuple[AdapterSummary, ...] = ()
    delta_ratios: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Preparation:
    """A run that was proven to the byte; nothing has been written. layouts and targets: one per output file."""

    request: ConvertRequest
    file_types: tuple[FileType, ...]
    layouts: tuple[LaidOut, ...]
    targets: tuple[str, ...]
    jobs: tuple[TensorJob, ...]
    bytes_in: int
    adapters: tuple[AdapterSummary, ...]
    notes: tuple[str, ...]


def prepare(request: ConvertRequest) -> Preparation:
    """Everything that can fail before the first byte of output. Raises a FastconvError with what is wrong."""
    engine.instruction_set()
    checkpoint = open_checkpoint(request.source)
    model = canonical_model(checkpoint, request.n_ctx)
    adapted = attach_adapters(model, request.adapters)
    model = replace(model, hparams=adapted.hparams)
    vocabulary = load_vocabulary(
        request.vocab_dir or model.directory, model.hparams.n_vocab, request.vocab_kind, config=model.config
    )
    layout = layout_of(request.to)
    tensors = {} if request.vocab_only else layout.computed_tensors(model) | interleaved(model, adapted.tensors)
    file_types = _file_types(request, layout, model)
    layouts = tuple(layout.lay_out(model, tensors, vocabulary, ftype, pure=request.pure) for ftype in file_types)
    targets = tuple(request.target_path(ftype.name) for ftype in file_types)
    check_targets(
        {path: laid_out.size for path, laid_out in zip(targets, layouts, strict=True)},
        _input_files(request, checkpoint, adapted.tensors),
        overwrite=request.overwrite,
    )
    jobs = _jobs(model, tensors, layouts)
    return Preparation(
        request,
        file_types,
        layouts,
        targets,
        jobs,
        bytes_in=engine.input_bytes(jobs),
        adapters=adapted.summaries,
        notes=tuple(dict.fromkeys(note for laid_out in layouts for note in laid_out.notes)),
    )


def execute(prepared: Preparation, progress: Progress | None = None) -> ConversionResult:
    """Write what was prepared. Raises a FastconvError, and leaves no file behind, if that fails."""
    start = time.perf_counter()
    request = prepared.request
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(OutputFile(path, laid_out.size))
            for path, laid_out in zip(prepared.targets, prepared.layouts, strict=True)
        ]
        for file, laid_out in zip(files, prepared.layouts, strict=True):
            for offset, data in laid_out.chunks:
                file.write(data, offset)
        descriptors = [file.fileno() for file in files]
        threads = request.threads or engine.default_threads()
        try:
            with WriteBack(descriptors):
                run = engine.run(prepared.jobs, descriptors, threads, request.nonfinite, progress)
        except OSError as error:
            raise write_error(", ".join(prepared.targets), error) from None
        # All are on the disk before the first takes its name, so that several appear together.
        for file in files:
            file.sync()
        for file in files:
            file.commit(overwrite=request.overwrite)
    return ConversionResult(
        outputs=tuple(
            OutputSummary(path, ftype.name, laid_out.size)
            for path, ftype, laid_out in zip(prepared.targets, prepared.file_types, prepared.layouts, strict=True)
        ),
        bytes_in=prepared.bytes_in,
        n_tensors=len(prepared.jobs),
        seconds=time.perf_counter() - start,
        adapters=prepared.adapters,
        delta_ratios=run.delta_ratios,
        notes=prepared.notes,
    )


def convert(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    to: str = "gguf",
    outtype: str | Sequence[str] = "auto",
    lora: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]] = (),
    pure: bool = False,
    threads: int | None = None,
    vocab_dir: str | os.PathLike[str] | None = None,
    vocab_type: str | None = None,
    vocab_only: bool = False,
    n_ctx: int | None = None,
    overwrite: bool = False,
    nonfinite: str = "error",
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint, LoRA adapters merged on the way, into quantized files in one streaming pass.

    source: folder or file of weights. outfile: default beside the source. to: gguf, ggjt, ggjt-v1, ggjt-v2, ggjt-v3.
    outtype: auto or a file type such as q4_0; several write one file each from one read. lora: a path, or several paths
    or (path, scale) pairs, which add up.
    Memory stays flat, under 200 MB, whatever the model's size. Raises FastconvError subclasses.
    """
    if isinstance(lora, str | os.PathLike):
        lora = [lora]
    adapters = [entry if isinstance(entry, tuple) else (entry, 1.0) for entry in lora]
    request = ConvertRequest(
        source=os.fspath(source),
        to=to,
        outtypes=split_types(outtype) if isinstance(outtype, str) else tuple(outtype),
        outfile=None if outfile is None else os.fspath(outfile),
        adapters=tuple((os.fspath(path), float(scale)) for path, scale in adapters),
        pure=pure,
        threads=threads,
        vocab_dir=None if vocab_dir is None else os.fspath(vocab_dir),
        vocab_kind=vocab_type,
        vocab_only=vocab_only,
        n_ctx=n_ctx,
        overwrite=overwrite,
        nonfinite=nonfinite,
    )
    return execute(prepare(request), progress)


def _file_types(request: ConvertRequest, layout: Layout, model: CanonicalModel) -> tuple[FileType, ...]:
    matrices = [tensor.dtype for tensor in model.tensors.values() if len(tensor.shape) > 1]
    chosen = (
        layout.auto_type(auto_file_type(matrices)) if name.lower() == "auto" else file_type(name)
        for name in request.outtypes
    )
    return tuple(dict.fromkeys(chosen))


def _input_files(request: ConvertRequest, checkpoint: Checkpoint, tensors: Mapping[str, MergedTensor]) -> list[str]:
    """Files that no target may replace: all weights, and what stands beside them and may be read."""
    files = dict.fromkeys(checkpoint.files)
    for merged in tensors.values():
        factors = (factor for delta in merged.deltas for factor in (delta.a, delta.b, delta.magnitude))
        for tensor in (merged.base, *factors):
            if tensor is not None:
                files |= dict.fromkeys(tensor.files)
    vocab_dir = request.vocab_dir or checkpoint.directory
    above = os.path.join(vocab_dir, os.pardir)
    for folder in (checkpoint.directory, vocab_dir, above, *(path for path, _ in request.adapters)):
        if not os.path.isdir(folder):
            folder = os.path.dirname(folder) or "."
        names = sorted(name for name in os.listdir(folder) if name.endswith(_READ_BESIDE_WEIGHTS))
        files |= dict.fromkeys(os.path.join(folder, name) for name in names)
    return list(files)


def _jobs(
    model: CanonicalModel, tensors: Mapping[str, MergedTensor], layouts: Sequence[LaidOut]
) -> tuple[TensorJob, ...]:
    """One job per source tensor, in the order of the first file, with an output per file that holds it."""
    outputs: dict[str, list[TensorOutput]] = {}
    names: dict[str, str] = {}
    for index, laid_out in enumerate(layouts):
        for placed in laid_out.tensors:
            outputs.setdefault(placed.canonical, []).append(
                TensorOutput(index, placed.type, placed.offset, placed.size)
            )
            names.setdefault(placed.canonical, placed.name)
    jobs = []
    for canonical, name in names.items():
        merged = tensors[canonical]
        jobs.append(
            TensorJob(
                name,
                model.source_names.get(canonical, canonical),
                merged.base.shape,
                merged.base,
                merged.deltas,
                tuple(outputs[canonical]),
            )
        )
    return tuple(jobs)
