"""The whole job on one page: prove the run, write the headers, stream the tensors, give the files their names."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TYPE_CHECKING

from fastconv import engine
from fastconv.adapter.attach import AdaptedModel, attach_adapters
from fastconv.adapter.delta import AdapterSummary, MergedTensor
from fastconv.adapter.lit_settings import LitLoraOptions, parse_qkv
from fastconv.architecture.spec import CanonicalModel, NamedModel
from fastconv.checkpoint.checkpoint import Checkpoint
from fastconv.checkpoint.open import open_checkpoint
from fastconv.engine import Progress
from fastconv.errors import CheckpointError, OutputError, UsageError, system_errors_told
from fastconv.layout.commit import commit_all
from fastconv.layout.kept_file import forget_kept, kept_bytes
from fastconv.layout.laid_out import LaidOut
from fastconv.layout.leftovers import remove_leftovers
from fastconv.layout.output_file import OutputFile, write_error
from fastconv.layout.output_folder import OutputFolder
from fastconv.layout.sha256_file import SUFFIX, sum_line
from fastconv.layout.target_check import check_targets
from fastconv.layout.targets import Contents, Layout, layout_for
from fastconv.memory_bounds import check_vocabulary_room, scratch_bound
from fastconv.paths import exists, is_file, is_folder
from fastconv.plan.file_types import FileType, auto_file_type, file_type
from fastconv.plan.importance import with_importance
from fastconv.plan.job import TensorJob, TensorOutput
from fastconv.plan.recipe import recipe_for
from fastconv.plan.stored_types import check_types, requantization_notes, rounding_notes
from fastconv.record import record
from fastconv.request import DEFAULT_SHARD_SIZE, Adapters, ConvertRequest, adapter_pairs, byte_size, split_types
from fastconv.vocab.embedded import embedded_vocabulary
from fastconv.vocab.load import load_vocabulary
from fastconv.vocab.vocabulary import Vocabulary

if TYPE_CHECKING:
    from fastconv.checkpoint.imatrix import ImportanceMatrix
    from fastconv.layout.kept_run import KeptRun

# Configurations, tokenizers, chat templates and model cards.
_READ_BESIDE_WEIGHTS = (".json", ".jinja", ".md", ".model", ".txt", ".yaml")


@record(eq=True)
class OutputSummary:
    """A finished (or planned) file. type: the file type's name. size: bytes. folder: the target it is a part of.

    sha256: in hexadecimal, where it was asked for; it stands beside the file too.
    """

    path: str
    type: str
    size: int
    folder: str | None = None
    sha256: str | None = None


@record(eq=True)
class ConversionResult:
    """bytes_in: of the tensors read. delta_ratios: |dW| / |W| of every tensor an adapter changed, by target name."""

    outputs: tuple[OutputSummary, ...]
    bytes_in: int
    n_tensors: int
    seconds: float
    adapters: tuple[AdapterSummary, ...] = ()
    delta_ratios: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@record
class PlannedFile:
    """An output file. folder: the target that it is a part of, None where it is the target itself."""

    path: str
    type: FileType
    laid_out: LaidOut
    folder: str | None = None


@record
class Preparation:
    """A run that was proven to the byte; nothing has been written. max_memory: bytes of scratch, None: no bound."""

    request: ConvertRequest
    files: tuple[PlannedFile, ...]
    jobs: tuple[TensorJob, ...]
    bytes_in: int
    adapters: tuple[AdapterSummary, ...]
    notes: tuple[str, ...]
    max_memory: int | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The files and folders that appear, each once."""
        return tuple(dict.fromkeys(planned.folder or planned.path for planned in self.files))


@record
class OpenedSource:
    """A source as its target wants it. adapted: before its rows took the target's order."""

    checkpoint: Checkpoint
    layout: Layout[NamedModel]
    adapted: AdaptedModel[NamedModel]
    contents: Contents[NamedModel]


@system_errors_told()
def open_source(request: ConvertRequest) -> OpenedSource:
    """The source with its adapters, in the names and rows of the target. Raises a FastconvError with what is wrong."""
    engine.instruction_set()
    checkpoint = open_checkpoint(request.checkpoint_path)
    layout = layout_for(request, checkpoint)
    adapted = attach_adapters(layout.open_model(), request.adapters, _lit_options(request))
    check_vocabulary_room(request, checkpoint, adapted.model, is_written=layout.has_vocabulary)
    vocabulary = vocabulary_of(request, checkpoint, adapted.model) if layout.has_vocabulary else None
    tensors = {} if request.vocab_only else layout.arrange(adapted.model, adapted.tensors)
    return OpenedSource(checkpoint, layout, adapted, Contents(adapted.model, tensors, vocabulary))


@system_errors_told()
def prepare(request: ConvertRequest) -> Preparation:
    """Everything that can fail before the first byte of output. Raises a FastconvError with what is wrong."""
    source = open_source(request)
    contents, adapted = source.contents, source.adapted
    file_types = file_types_of(source)
    recipe = recipe_for(request, _open_imatrix(request), file_types)
    files = tuple(
        _planned(request, file_type, laid_out)
        for file_type in file_types
        for laid_out in source.layout.lay_out(contents, file_type, recipe)
    )
    for first, second in itertools.pairwise(sorted(file.path for file in files)):
        if first == second:
            found = f"{first} for {', '.join(request.outtypes)}"
            raise UsageError("two outputs would have one name", found=found, fix="ask for one of them")
    check_targets(
        {file.path: file.laid_out.size - _kept_bytes(request, file) for file in files},
        _input_files(request, source.checkpoint, adapted.tensors),
        overwrite=request.overwrite,
        folders={file.folder for file in files if file.folder is not None},
    )
    if request.checksum:
        _check_sums(file.path + SUFFIX for file in files)
    jobs = _jobs(contents, [file.laid_out for file in files])
    jobs, importance_notes = with_importance(jobs, [file.type for file in files], recipe.imatrix)
    check_types(jobs)
    max_memory = scratch_bound(request, jobs)
    stale = () if request.checksum else tuple(_stale_sums(file.path for file in files))
    notes = (*contents.model.notes, *requantization_notes(jobs), *importance_notes, *stale)
    return Preparation(
        request,
        files,
        jobs,
        bytes_in=engine.input_bytes(jobs),
        max_memory=max_memory,
        adapters=adapted.summaries,
        notes=tuple(dict.fromkeys((*notes, *(note for file in files for note in file.laid_out.notes)))),
    )


@system_errors_told()
def execute(prepared: Preparation, progress: Progress | None = None) -> ConversionResult:
    """Write what was prepared. Raises a FastconvError, and leaves no file behind, if that fails."""
    start = time.perf_counter()
    request = prepared.request
    with contextlib.ExitStack() as stack:
        kept = stack.push(_kept_run(prepared)) if request.resume else None
        if kept is not None:
            kept.open()
        files, folders = _open_outputs(prepared, stack)
        run = _stream(prepared, files, kept, progress)
        for file, planned in zip(files, prepared.files, strict=True):
            for checksum in planned.laid_out.checksums:
                file.seal(checksum)
        # All are whole before the first takes its name, so that several appear together.
        for file in files:
            file.sync()
        sums = [file.sha256() if request.checksum else None for file in files]
        beside = [
            _write_sum(file.path, digest, request, stack)
            for file, digest in zip(files, sums, strict=True)
            if digest is not None
        ]
        commit_notes = commit_all([*files, *beside], folders)
        if kept is not None:
            kept.finish()
        else:
            forget_kept(prepared.targets)
    resumed = None if kept is None else kept.note(run.n_pieces_found, run.n_pieces)
    return ConversionResult(
        outputs=tuple(
            OutputSummary(planned.path, planned.type.name, planned.laid_out.size, planned.folder, digest)
            for planned, digest in zip(prepared.files, sums, strict=True)
        ),
        bytes_in=prepared.bytes_in,
        n_tensors=len(prepared.jobs),
        seconds=time.perf_counter() - start,
        adapters=prepared.adapters,
        delta_ratios=run.delta_ratios,
        notes=(
            *([] if resumed is None else [resumed]),
            *prepared.notes,
            *rounding_notes(prepared.jobs, run.rounded_blocks),
            *commit_notes,
        ),
    )


def convert(
    source: str | os.PathLike[str],
    outfile: str | os.PathLike[str] | None = None,
    *,
    to: str = "gguf",
    outtype: str | Sequence[str] = "auto",
    lora: Adapters = (),
    pure: bool = False,
    leave_output_tensor: bool = False,
    output_tensor_type: str | None = None,
    token_embedding_type: str | None = None,
    tensor_types: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    imatrix: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    vocab_dir: str | os.PathLike[str] | None = None,
    vocab_type: str | None = None,
    vocab_only: bool = False,
    n_ctx: int | None = None,
    rms_eps: float | None = None,
    rope_base: float | None = None,
    model_name: str | None = None,
    checkpoint_name: str | None = None,
    lora_alpha: float | None = None,
    lora_r: int | None = None,
    lora_qkv: str | None = None,
    lora_layout: str | None = None,
    litgpt_layout: str = "split",
    shard_size: int | str | None = None,
    weights_format: str | None = None,
    checksum: bool = False,
    provenance: bool = False,
    resume: bool = False,
    sync: bool = True,
    max_memory: int | str | None = None,
    overwrite: bool = False,
    nonfinite: str = "error",
    progress: Progress | None = None,
) -> ConversionResult:
    """Convert a checkpoint, LoRA adapters merged on the way, into quantized files in one streaming pass.

    source: folder or file of weights. outfile: default beside the source. to: gguf, ggjt, ggjt-v1 to -v3, hf, litgpt.
    outtype: auto or a file type such as q4_0; several write one file each from one read. lora: a path, or several paths
    or (path, scale) pairs, which add up. pure to imatrix: as in llama-quantize; tensor_types: regular expression ->
    type, the first found in a tensor's name counts; imatrix: importance matrix of llama-imatrix, GGUF or .dat.
    checksum: also write PATH.sha256. provenance: say in GGUF or safetensors metadata what made the file. resume: keep
    what is done when interrupted, and go on with what was kept. sync: False: do not wait until outputs are on the disk:
    faster, but a power failure soon may spoil them. max_memory: of scratch, bytes or text such as "64M".
    Memory stays flat, under 200 MB, whatever the model's size. Raises FastconvError subclasses.
    """
    request = ConvertRequest(
        source=os.fspath(source),
        to=to,
        outtypes=split_types(outtype) if isinstance(outtype, str) else tuple(outtype),
        outfile=None if outfile is None else os.fspath(outfile),
        adapters=adapter_pairs(lora),
        pure=pure,
        leave_output_tensor=leave_output_tensor,
        output_tensor_type=output_tensor_type,
        token_embedding_type=token_embedding_type,
        tensor_types=tuple(tensor_types.items() if isinstance(tensor_types, Mapping) else tensor_types),
        imatrix=None if imatrix is None else os.fspath(imatrix),
        threads=threads,
        vocab_dir=None if vocab_dir is None else os.fspath(vocab_dir),
        vocab_kind=vocab_type,
        vocab_only=vocab_only,
        n_ctx=n_ctx,
        rms_eps=rms_eps,
        rope_base=rope_base,
        model_name=model_name,
        checkpoint_name=checkpoint_name,
        lora_alpha=lora_alpha,
        lora_r=lora_r,
        lora_qkv=lora_qkv,
        lora_layout=lora_layout,
        litgpt_layout=litgpt_layout,
        shard_size=byte_size(shard_size, "--shard-size") if shard_size is not None else DEFAULT_SHARD_SIZE,
        weights_format=weights_format,
        checksum=checksum,
        provenance=provenance,
        resume=resume,
        sync=sync,
        max_memory=None if max_memory is None else byte_size(max_memory, "--max-memory"),
        overwrite=overwrite,
        nonfinite=nonfinite,
    )
    return execute(prepare(request), progress)


def _open_outputs(prepared: Preparation, stack: contextlib.ExitStack) -> tuple[list[OutputFile], list[OutputFolder]]:
    """Every output under its temporary name, with all in it that the engine does not write. stack: discards them."""
    request = prepared.request
    names = dict.fromkeys(planned.folder for planned in prepared.files if planned.folder is not None)
    folders = {name: stack.push(OutputFolder(name, is_kept=request.resume, is_synced=request.sync)) for name in names}
    for folder in folders.values():
        folder.open()
    files: list[OutputFile] = []
    for planned in prepared.files:
        laid_out, path = planned.laid_out, planned.path
        if planned.folder is not None:
            path = folders[planned.folder].place(laid_out.name)
        file = OutputFile(
            path, laid_out.size, overwrite=request.overwrite, is_kept=request.resume, is_synced=request.sync
        )
        files.append(stack.push(file))
        file.open()
        remove_leftovers(file.folder, os.path.basename(path) + SUFFIX)
        for offset, data in laid_out.chunks:
            file.write(data, offset)
        for copied in laid_out.copied:
            file.copy(copied)
        if request.resume:  # an earlier run may have left anything there
            for offset, size in laid_out.padding():
                file.write(bytes(size), offset)
    return files, list(folders.values())


def _stream(
    prepared: Preparation, files: Sequence[OutputFile], kept: KeptRun | None, progress: Progress | None
) -> engine.RunResult:
    """The tensors, through the engine into the files."""
    request = prepared.request
    descriptors = [file.fileno() for file in files]
    if kept is not None:
        kept.begin(descriptors)
    try:
        return engine.run(
            prepared.jobs,
            descriptors,
            request.threads or engine.default_threads(),
            request.nonfinite,
            progress,
            direct=request.sync,
            max_memory=prepared.max_memory,
            ledger=kept,
        )
    except OSError as error:
        raise write_error(", ".join(planned.path for planned in prepared.files), error) from None


def _write_sum(path: str, digest: str, request: ConvertRequest, stack: contextlib.ExitStack) -> OutputFile:
    """The file that holds the sum of the one at `path`, synced."""
    line = sum_line(digest, path)
    file = stack.push(OutputFile(path + SUFFIX, len(line), overwrite=True, is_synced=request.sync))
    file.open()
    file.write(line, 0)
    file.sync()
    return file


def _kept_bytes(request: ConvertRequest, planned: PlannedFile) -> int:
    return min(kept_bytes(planned.path, planned.folder), planned.laid_out.size) if request.resume else 0


def _kept_run(prepared: Preparation) -> KeptRun:
    from fastconv.layout.kept_run import KeptRun
    from fastconv.layout.run_facts import run_facts

    folder = os.path.dirname(os.path.abspath(prepared.targets[0]))
    layouts = [(planned.path, planned.laid_out) for planned in prepared.files]
    try:
        return KeptRun(prepared.targets, run_facts(prepared.request, folder, layouts, prepared.jobs))
    except OSError as error:
        raise CheckpointError(f"cannot be read ({error.strerror})", file=error.filename) from None


def _lit_options(request: ConvertRequest) -> LitLoraOptions:
    qkv = None if request.lora_qkv is None else parse_qkv(request.lora_qkv)
    return LitLoraOptions(request.lora_alpha, request.lora_r, qkv, request.lora_layout)


def vocabulary_of(request: ConvertRequest, checkpoint: Checkpoint, model: NamedModel) -> Vocabulary:
    """The vocabulary of a source: its own, or that of the tokenizer files beside it. Raises VocabularyError."""
    assert isinstance(model, CanonicalModel)
    if checkpoint.is_self_contained and request.vocab_dir is None:
        return embedded_vocabulary(checkpoint, model.hparams.n_vocab)
    return load_vocabulary(
        request.vocab_dir or model.directory, model.hparams.n_vocab, request.vocab_kind, config=model.config
    )


def _check_sums(paths: Iterable[str]) -> None:
    """Sums of older files are replaced, and nothing else of that name."""
    for path in paths:
        if os.path.lexists(path) and not is_file(path):
            raise OutputError("is no regular file", file=path, fix="move it away, or leave --checksum out")


def _stale_sums(paths: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if exists(path + SUFFIX):
            yield f"{path}{SUFFIX} is of an older file: give --checksum to write it anew"


def _planned(request: ConvertRequest, file_type: FileType, laid_out: LaidOut) -> PlannedFile:
    target = request.target_path(file_type.name)
    if not laid_out.name:
        return PlannedFile(target, file_type, laid_out)
    return PlannedFile(os.path.join(target, laid_out.name), file_type, laid_out, target)


def file_types_of(source: OpenedSource) -> tuple[FileType, ...]:
    """The file types asked for, each once, auto settled by the types of the model's matrices."""
    matrices = [tensor.dtype for tensor in source.contents.model.tensors.values() if len(tensor.shape) > 1]
    chosen = (
        source.layout.auto_type(auto_file_type(matrices)) if name.lower() == "auto" else file_type(name)
        for name in source.layout.request.outtypes
    )
    return tuple(dict.fromkeys(chosen))


def _open_imatrix(request: ConvertRequest) -> ImportanceMatrix | None:
    if request.imatrix is None:
        return None
    from fastconv.checkpoint.imatrix import read_imatrix

    return read_imatrix(request.imatrix)


def _input_files(request: ConvertRequest, checkpoint: Checkpoint, tensors: Mapping[str, MergedTensor]) -> list[str]:
    """Files that no target may replace: all weights, and what stands beside them and may be read."""
    files = dict.fromkeys(checkpoint.files)
    if request.imatrix is not None:
        files[request.imatrix] = None
    for merged in tensors.values():
        for tensor in (merged.base, *(factor for delta in merged.deltas for factor in delta.factors)):
            files |= dict.fromkeys(tensor.files)
    vocab_dir = request.vocab_dir or checkpoint.directory
    if not is_folder(vocab_dir):  # one of the tokenizer's files
        vocab_dir = os.path.dirname(vocab_dir) or "."
    above = os.path.join(vocab_dir, os.pardir)
    for folder in (checkpoint.directory, vocab_dir, above, *(path for path, _ in request.adapters)):
        if not is_folder(folder):
            folder = os.path.dirname(folder) or "."
        names = sorted(name for name in os.listdir(folder) if name.endswith(_READ_BESIDE_WEIGHTS))
        files |= dict.fromkeys(os.path.join(folder, name) for name in names)
    return list(files)


def _jobs(contents: Contents[NamedModel], layouts: Sequence[LaidOut]) -> tuple[TensorJob, ...]:
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
        merged = contents.tensors[canonical]
        source_name = contents.model.source_names.get(canonical, canonical)
        placed_in = tuple(outputs[canonical])
        jobs.append(TensorJob(name, source_name, merged.base.shape, merged.base, merged.deltas, placed_in))
    return tuple(jobs)
