"""`fastconv convert`: options -> ConvertRequest, and the summary."""

from __future__ import annotations

import argparse
import time
from typing import Any

from fastconv.cli.progress_bar import with_bar
from fastconv.cli.source_options import add_source_options, source_fields
from fastconv.cli.streams import say
from fastconv.request import (
    DEFAULT_SHARD_SIZE,
    LITGPT_LAYOUTS,
    NON_FINITE,
    TARGETS,
    WEIGHTS_FORMATS,
    ConvertRequest,
    byte_size,
    split_tensor_type,
    split_types,
)


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint, LoRA adapters included, into a quantized file",
        description="Convert a Hugging Face, Meta or PyTorch checkpoint, LoRA adapters merged on the way, in one pass.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`."""
    parser.add_argument(
        "source", metavar="SOURCE", help="model folder, or a file: safetensors, PyTorch, GGUF, or GGML, GGMF, GGJT"
    )
    parser.add_argument("--to", choices=tuple(TARGETS), default="gguf", help="format (default %(default)s)")
    parser.add_argument(
        "--outtype",
        default="auto",
        metavar="TYPE[,TYPE...]",
        help="auto, f32, f16, bf16, or a type of llama-quantize such as q8_0, q4_k_m, iq4_xs; several write one file "
        "each from one read (default %(default)s: as the input)",
    )
    parser.add_argument(
        "-o", "--outfile", "--output", metavar="PATH", help="may hold {type} (default: beside the input, by type)"
    )
    parser.add_argument("--concurrency", type=int, metavar="N", help="threads (default: the CPUs this process may use)")
    parser.add_argument(
        "--nonfinite",
        choices=NON_FINITE,
        default="error",
        help="NaN, infinity and overflow in the weights (default %(default)s)",
    )
    add_source_options(parser)
    parser.add_argument(
        "--litgpt-layout",
        choices=LITGPT_LAYOUTS,
        default=LITGPT_LAYOUTS[0],
        help="QKV of --to litgpt: interleaved as until LitGPT 0.5.4 (default %(default)s)",
    )
    folders = parser.add_argument_group("--to hf: a folder with its configuration and tokenizer")
    folders.add_argument("--format", choices=WEIGHTS_FORMATS, help="files of the weights (default: safetensors)")
    folders.add_argument("--shard-size", default=DEFAULT_SHARD_SIZE, metavar="SIZE", help="largest file (default 5GB)")
    parser.add_argument("--checksum", action="store_true", help="write PATH.sha256 beside every file, and print it")
    parser.add_argument("--provenance", action="store_true", help="say in GGUF or safetensors metadata what made it")
    parser.add_argument(
        "--resume", action="store_true", help="keep what is done when interrupted; the same command then continues it"
    )
    parser.add_argument(
        "--no-sync",
        action="store_false",
        dest="sync",
        help="leave it to the system when the output comes to the disk: faster, but a power failure soon may spoil it",
    )
    parser.add_argument("--max-memory", metavar="SIZE", help="bound of the scratch memory, such as 64M or 1G")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    types = parser.add_argument_group("types of single tensors (GGUF), as in llama-quantize")
    types.add_argument("--imatrix", metavar="FILE", help="importance matrix of llama-imatrix, GGUF or .dat")
    types.add_argument(
        "--tensor-type",
        action="append",
        default=[],
        metavar="PATTERN=TYPE",
        help="for tensors with this regular expression in their name, repeatable; the first that matches counts",
    )
    types.add_argument("--output-tensor-type", metavar="TYPE", help="for output.weight")
    types.add_argument("--token-embedding-type", metavar="TYPE", help="for the token embeddings")
    types.add_argument("--leave-output-tensor", action="store_true", help="do not quantize output.weight")
    types.add_argument("--pure", action="store_true", help="no mixtures: the same type for every matrix")
    only = parser.add_argument_group("instead of converting").add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="show the plan: every tensor's type, size and offset")
    only.add_argument("--dump", action="store_true", help="show the model's tensors, checked and under common names")
    only.add_argument("--dump-single", action="store_true", help="show what one file holds, as stored")
    only.add_argument("--vocab-only", action="store_true", help="write a file with the vocabulary alone")
    talk = parser.add_argument_group("output to the terminal")
    talk.add_argument("--quiet", action="store_true", help="print errors only")
    talk.add_argument("--verbose", action="store_true", help="print a line per tensor")
    talk.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed `convert` command line. Returns the exit code."""
    started = time.perf_counter()
    request = request_from(arguments)
    if arguments.dump or arguments.dump_single:
        from fastconv.cli import dump

        return (dump.single if arguments.dump_single else dump.model)(request, as_json=arguments.json)

    from fastconv.cli.lazy_packages import import_when_used

    import_when_used()
    from fastconv.cli import report
    from fastconv.conversion import execute, prepare

    prepared = prepare(request)
    if arguments.dry_run:
        say(report.plan_json(prepared) if arguments.json else report.plan_text(prepared))
        return 0
    if arguments.verbose and not arguments.json:
        say(report.plan_text(prepared))
    result = with_bar(lambda progress: execute(prepared, progress), hidden=arguments.quiet or arguments.json)
    seconds = time.perf_counter() - started
    text = report.summary_json if arguments.json else report.summary_text
    if arguments.json or not arguments.quiet:
        say(text(result, seconds), fix="what was asked for is written all the same")
    return 0


def request_from(arguments: argparse.Namespace) -> ConvertRequest:
    """Raises UsageError where the options do not make sense."""
    return ConvertRequest(
        source=arguments.source,
        to=arguments.to,
        outtypes=split_types(arguments.outtype),
        outfile=arguments.outfile,
        pure=arguments.pure,
        leave_output_tensor=arguments.leave_output_tensor,
        output_tensor_type=arguments.output_tensor_type,
        token_embedding_type=arguments.token_embedding_type,
        tensor_types=tuple(split_tensor_type(text) for text in arguments.tensor_type),
        imatrix=arguments.imatrix,
        threads=arguments.concurrency,
        vocab_only=arguments.vocab_only,
        litgpt_layout=arguments.litgpt_layout,
        weights_format=arguments.format,
        shard_size=byte_size(arguments.shard_size, "--shard-size"),
        checksum=arguments.checksum,
        provenance=arguments.provenance,
        resume=arguments.resume,
        sync=arguments.sync,
        max_memory=None if arguments.max_memory is None else byte_size(arguments.max_memory, "--max-memory"),
        overwrite=arguments.overwrite,
        nonfinite=arguments.nonfinite,
        **source_fields(arguments),
    )
