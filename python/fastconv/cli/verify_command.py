"""`fastconv verify`: a file against the rules of its format, its checksum and its source."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from fastconv.cli.adapter_argument import adapter_argument
from fastconv.errors import OutputError, UsageError
from fastconv.request import VOCABULARY_KINDS, ConvertRequest

if TYPE_CHECKING:
    from fastconv.verification.findings import Verification

_FOR_SOURCE = {
    "lora": "--lora",
    "imatrix": "--imatrix",
    "vocab_dir": "--vocab-dir",
    "vocabtype": "--vocabtype",
    "ctx": "--ctx",
    "rms_eps": "--rms-eps",
    "rope_base": "--rope-base",
    "checkpoint_name": "--checkpoint-name",
    "model_name": "--model-name",
    "lora_alpha": "--lora-alpha",
    "lora_r": "--lora-r",
    "lora_qkv": "--lora-qkv",
    "lora_layout": "--lora-layout",
}


def add_parser(commands: Any) -> None:
    """Adds the command to argparse's subparsers."""
    parser = commands.add_parser(
        "verify",
        help="check a converted file, and every tensor against its source",
        description="Check the structure of a GGUF, GGML or safetensors file, its checksum if FILE.sha256 is there "
        "and, with --against, every tensor against its source. Exit code 0: all is well; 1: something is off.",
    )
    parser.add_argument("file", metavar="FILE", help="file, or model folder, to check")
    parser.add_argument("--against", metavar="SOURCE", help="what it was converted from, as for convert")
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="PATH[:SCALE]",
        help="adapter that was merged, repeatable, in the order of the conversion",
    )
    parser.add_argument("--imatrix", metavar="FILE", help="importance matrix that it was quantized with")
    parser.add_argument("--vocab-dir", metavar="DIR", help="folder with the source's tokenizer, if not beside it")
    parser.add_argument("--vocabtype", choices=VOCABULARY_KINDS, help="kind of vocabulary (default: detected)")
    parser.add_argument("--ctx", type=int, metavar="N", help="context length that was given to convert")
    parser.add_argument("--rms-eps", type=float, metavar="X", help="epsilon of the norms, likewise")
    parser.add_argument("--rope-base", type=float, metavar="X", help="base of the rotary positions, likewise")
    parser.add_argument("--checkpoint-name", metavar="FILE", help="file in SOURCE, of Lit-GPT")
    parser.add_argument("--model-name", metavar="NAME", help="LitGPT's name of the model")
    parser.add_argument("--lora-alpha", type=float, metavar="ALPHA", help="of a LoRA of Lit-GPT, as for convert")
    parser.add_argument("--lora-r", type=int, metavar="R", help="likewise")
    parser.add_argument("--lora-qkv", metavar="PARTS", help="likewise")
    parser.add_argument("--lora-layout", metavar="LAYOUT", help="likewise")
    parser.add_argument("--concurrency", type=int, metavar="N", help="threads (default: the CPUs this process may use)")
    parser.add_argument("--quiet", action="store_true", help="print what is wrong only")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--html", metavar="REPORT", help="write a page with tables and plots, in one file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Carry out a parsed `verify` command line. Returns the exit code."""
    request = _request(arguments)
    if arguments.html is not None:
        _check_report(arguments)

    from fastconv.cli.lazy_packages import import_when_used

    import_when_used()
    from fastconv.cli import verify_report

    result = _verify_with_bar(arguments, request)
    if arguments.html is not None:
        from fastconv.cli.verify_page import page

        _write(arguments.html, page(result))
    if arguments.json:
        print(verify_report.as_json(result))
    else:
        text = verify_report.as_text(result, quiet=arguments.quiet)
        if text:
            print(text)
    return 0 if result.is_fine else 1


def _request(arguments: argparse.Namespace) -> ConvertRequest | None:
    """Raises UsageError where the options do not make sense."""
    if arguments.concurrency is not None and arguments.concurrency < 1:
        raise UsageError("--concurrency is out of range", found=arguments.concurrency, expected="1 or more")
    if arguments.against is None:
        given = [option for name, option in _FOR_SOURCE.items() if getattr(arguments, name) not in (None, [])]
        if given:
            raise UsageError(f"{given[0]} is about the source", fix="give --against")
        return None
    return ConvertRequest(
        source=arguments.against,
        adapters=tuple(adapter_argument(text) for text in arguments.lora),
        threads=arguments.concurrency,
        vocab_dir=arguments.vocab_dir,
        vocab_kind=arguments.vocabtype,
        n_ctx=arguments.ctx,
        rms_eps=arguments.rms_eps,
        rope_base=arguments.rope_base,
        model_name=arguments.model_name,
        checkpoint_name=arguments.checkpoint_name,
        lora_alpha=arguments.lora_alpha,
        lora_r=arguments.lora_r,
        lora_qkv=arguments.lora_qkv,
        lora_layout=arguments.lora_layout,
    )


def _verify_with_bar(arguments: argparse.Namespace, request: ConvertRequest | None) -> Verification:
    from fastconv.verification.verify import verify_request

    if arguments.quiet or arguments.json or not sys.stderr.isatty():
        return verify_request(arguments.file, request, arguments.imatrix, threads=arguments.concurrency)
    from tqdm import tqdm

    with tqdm(total=0, unit="B", unit_scale=True, leave=False, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return verify_request(
            arguments.file, request, arguments.imatrix, threads=arguments.concurrency, progress=progress
        )


def _check_report(arguments: argparse.Namespace) -> None:
    folder = os.path.dirname(os.path.abspath(arguments.html))
    if not os.path.isdir(folder):
        raise OutputError("the folder does not exist", file=folder, fix="make it first")
    if os.path.isdir(arguments.html):
        raise OutputError("is a folder", file=arguments.html, fix="give --html a file name")
    both = (arguments.html, arguments.file)
    if all(map(os.path.exists, both)) and os.path.samefile(*both):
        raise OutputError("is the file to check", file=arguments.html, fix="write to another file")


def _write(path: str, text: str) -> None:
    """An older report of that name is replaced."""
    from fastconv.layout.commit import commit_all
    from fastconv.layout.output_file import OutputFile

    data = text.encode("utf-8", "backslashreplace")
    with OutputFile(path, len(data), overwrite=True) as out:
        out.open()
        out.write(data, 0)
        out.sync()
        commit_all([out])
