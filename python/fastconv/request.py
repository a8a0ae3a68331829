"""What a conversion is asked to do, checked for sense before any file is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from typing import TypeAlias

from fastconv.errors import UsageError
from fastconv.paths import is_path
from fastconv.record import record

TARGETS: dict[str, tuple[str, int]] = {
    "gguf": ("gguf", 3),
    "ggjt": ("ggjt", 3),
    "ggjt-v1": ("ggjt", 1),
    "ggjt-v2": ("ggjt", 2),
    "ggjt-v3": ("ggjt", 3),
    "hf": ("hf", 0),
    "litgpt": ("litgpt", 0),
}
"""--to -> (layout, version)."""

_LEAST_REAL, _LARGEST_REAL = 2.0**-126, 2.0**127  # of float32, which is what files hold
MOST_THREADS = 1 << 16
_MOST_BYTES = 1 << 60
_LONGEST_CONTEXT = (1 << 31) - 1  # what readers of either format hold

# Formats whose target is a folder, and what it is called beside the input.
_FOLDERS = {"hf": "hf-model", "litgpt": "litgpt-model"}
# Suffixes of a file of weights alone.
WEIGHTS_FORMATS = ("safetensors", "bin", "pth")
LITGPT_LAYOUTS = ("split", "interleaved")
DEFAULT_SHARD_SIZE = 5 * 10**9

Adapters: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str] | tuple[str | os.PathLike[str], float]]"
"""A path, or several paths or (path, scale) pairs."""

NON_FINITE = ("error", "keep", "clamp")
VOCABULARY_KINDS = ("spm", "bpe")


@record(eq=True)
class ConvertRequest:
    """The options of one conversion.

    source: directory or file. outtypes: file types, or ("auto",). outfile: None: beside the input; holds {type} where
    several types are asked for. adapters: (path, scale). pure, leave_output_tensor, output_tensor_type,
    token_embedding_type, tensor_types (regular expression, type) and imatrix (path): as llama-quantize takes them.
    threads: None: all CPUs this process may use. n_ctx: context length, None: as the source says. vocab_dir: None:
    beside the source. vocab_kind: None: detected. weights_format: of targets that are folders of weights, None: as
    --outfile ends, else safetensors. shard_size: bytes of one file there.

    checkpoint_name: file inside the source, a folder. model_name: LitGPT's, None: from the files beside the checkpoint.
    lora_alpha, lora_r, lora_qkv ("q,v"), lora_layout: of Lit-GPT's LoRAs, None: as they say themselves.
    litgpt_layout: of the QKV that --to litgpt writes.

    checksum: write the SHA-256 of each file beside it. provenance: say in the file what made it. resume: keep what is
    done when interrupted, and go on with what was kept. sync: outputs are on the disk before they take their names.
    max_memory: bytes of scratch, None: no bound.

    Raises UsageError where options contradict each other or name what does not exist.
    """

    source: str
    to: str = "gguf"
    outtypes: tuple[str, ...] = ("auto",)
    outfile: str | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    pure: bool = False
    leave_output_tensor: bool = False
    output_tensor_type: str | None = None
    token_embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    imatrix: str | None = None
    threads: int | None = None
    vocab_dir: str | None = None
    vocab_kind: str | None = None
    vocab_only: bool = False
    n_ctx: int | None = None
    rms_eps: float | None = None
    rope_base: float | None = None
    model_name: str | None = None
    checkpoint_name: str | None = None
    lora_alpha: float | None = None
    lora_r: int | None = None
    lora_qkv: str | None = None
    lora_layout: str | None = None
    litgpt_layout: str = LITGPT_LAYOUTS[0]
    weights_format: str | None = None
    shard_size: int = DEFAULT_SHARD_SIZE
    checksum: bool = False
    provenance: bool = False
    resume: bool = False
    sync: bool = True
    max_memory: int | None = None
    overwrite: bool = False
    nonfinite: str = "error"

    def __post_init__(self) -> None:
        self._check_paths()
        self._check_choices()
        self._check_numbers()
        self._check_target()
        self._check_outtypes()
        self._check_recipe()

    def _check_paths(self) -> None:
        for option, path in (
            ("the source", self.source),
            ("--outfile", self.outfile),
            ("--vocab-dir", self.vocab_dir),
            ("--imatrix", self.imatrix),
            ("--checkpoint-name", self.checkpoint_name),
            *(("--lora", path) for path, _ in self.adapters),
        ):
            if path == "":
                raise UsageError(f"{option} is an empty name")
            if path is not None and not is_path(path):
                raise UsageError(f"{option} is no name that a file can have", found=ascii(path))
        if self.outfile == "-":
            raise UsageError("cannot write to standard output: a file is written at many places at once")

    def _check_choices(self) -> None:
        choices: list[tuple[str, str, Collection[str]]] = [
            ("target", self.to, TARGETS),
            ("--nonfinite", self.nonfinite, NON_FINITE),
            ("--litgpt-layout", self.litgpt_layout, LITGPT_LAYOUTS),
        ]
        if self.vocab_kind is not None:
            choices.append(("--vocabtype", self.vocab_kind, VOCABULARY_KINDS))
        if self.weights_format is not None:
            choices.append(("--format", self.weights_format, WEIGHTS_FORMATS))
        for option, found, known in choices:
            if found not in known:
                raise UsageError(f"unknown {option}", found=found, expected=f"one of {', '.join(known)}")

    def _check_numbers(self) -> None:
        for option, number, largest in (
            ("--concurrency", self.threads, MOST_THREADS),
            ("--ctx", self.n_ctx, _LONGEST_CONTEXT),
            ("--max-memory", self.max_memory, _MOST_BYTES),
            ("--shard-size", self.shard_size, _MOST_BYTES),
        ):
            if number is not None and not 1 <= number <= largest:
                raise UsageError(f"{option} is out of range", found=number, expected=f"1 to {largest}")
        for option, value in (("--rms-eps", self.rms_eps), ("--rope-base", self.rope_base)):
            if value is not None and not _LEAST_REAL <= value <= _LARGEST_REAL:
                raise UsageError(f"{option} is out of range", found=value, expected="a positive number")

    def _check_target(self) -> None:
        """Options that not every format has, and those that exclude one another."""
        if self.weights_format is not None and self.layout != "hf":
            raise UsageError("--format is for --to hf", found=f"--to {self.to}")
        if self.shard_size != DEFAULT_SHARD_SIZE and not (TARGETS[self.to][0] == "hf" and self.is_folder_target):
            raise UsageError("--shard-size is for folders of --to hf", found=self._target_in_words())
        if self.litgpt_layout != LITGPT_LAYOUTS[0] and TARGETS[self.to][0] != "litgpt":
            raise UsageError("--litgpt-layout is for --to litgpt", found=f"--to {self.to}")
        for option, given in (
            ("--lora-alpha", self.lora_alpha),
            ("--lora-r", self.lora_r),
            ("--lora-qkv", self.lora_qkv),
            ("--lora-layout", self.lora_layout),
        ):
            if given is not None and not self.adapters:
                raise UsageError(f"{option} is about an adapter", fix="give it with --lora")
        if self.provenance and not self._has_place_for_provenance():
            raise UsageError("--provenance is for GGUF and safetensors", found=f"--to {self.to}")
        if self.resume and not self.sync:
            raise UsageError("--resume goes on from what is on the disk: it does not go with --no-sync")
        if self.vocab_only and self.layout in _FOLDERS:
            raise UsageError("--vocab-only is for GGUF and GGJT", found=f"--to {self.to}")
        if self.vocab_only and (self.adapters or len(self.outtypes) > 1):
            raise UsageError("--vocab-only writes no tensors: it goes with neither --lora nor several types")

    def _check_outtypes(self) -> None:
        if not self.outtypes:
            raise UsageError("no output type was given")
        if len({name.lower() for name in self.outtypes}) != len(self.outtypes):
            raise UsageError("an output type is given twice", found=", ".join(self.outtypes))
        if len(self.outtypes) > 1 and self.outfile is not None and not _has_placeholder(self.outfile):
            raise UsageError(
                "--outfile names one file for several types",
                found=self.outfile,
                fix="put {type} where the type belongs",
            )

    def _target_in_words(self) -> str:
        return f"--to {self.to}" if self.outfile is None else f"--to {self.to} --outfile {self.outfile}"

    def _check_recipe(self) -> None:
        if any(pattern == "" for pattern, _ in self.tensor_types):
            raise UsageError("the pattern of --tensor-type is empty")
        given = [
            option
            for option, value in (
                ("--leave-output-tensor", self.leave_output_tensor),
                ("--output-tensor-type", self.output_tensor_type),
                ("--token-embedding-type", self.token_embedding_type),
                ("--tensor-type", self.tensor_types),
                ("--imatrix", self.imatrix),
            )
            if value
        ]
        if given and self.vocab_only:
            raise UsageError(f"--vocab-only writes no tensors: {given[0]} means nothing")
        if given and self.layout != "gguf":
            raise UsageError(f"{given[0]} is for GGUF", found=f"--to {self.to}")
        if self.leave_output_tensor and self.output_tensor_type is not None:
            raise UsageError("--leave-output-tensor and --output-tensor-type contradict each other")

    def target_path(self, type_name: str) -> str:
        """The path of the output file, or folder, of one type."""
        if self.outfile is not None:
            return self.outfile.replace("{type}", type_name).replace("{ftype}", type_name)
        folder = self.source if os.path.isdir(self.source) else os.path.dirname(os.path.abspath(self.source))
        if self.layout in _FOLDERS:
            name = _FOLDERS[self.layout]
            return os.path.join(folder, name if self.outtypes == ("auto",) else f"{name}-{type_name}")
        stem = "vocab" if self.vocab_only else f"model-{type_name}"
        return os.path.join(folder, f"ggml-{stem}.{'gguf' if self.layout == 'gguf' else 'bin'}")

    @property
    def layout(self) -> str:
        """The format of the target, without its version."""
        return TARGETS[self.to][0]

    @property
    def checkpoint_path(self) -> str:
        """The folder or file to open."""
        return self.source if self.checkpoint_name is None else os.path.join(self.source, self.checkpoint_name)

    @property
    def is_folder_target(self) -> bool:
        """Whether a folder of files is written, rather than one file."""
        return self.layout in _FOLDERS and self._outfile_format() is None

    @property
    def weights_kind(self) -> str:
        """The format of weights in a folder, or of a file of weights alone: one of WEIGHTS_FORMATS."""
        return self.weights_format or self._outfile_format() or WEIGHTS_FORMATS[0]

    def _has_place_for_provenance(self) -> bool:
        return self.to == "gguf" or (self.to == "hf" and self.weights_kind == "safetensors")

    def _outfile_format(self) -> str | None:
        """What --outfile ends in, if it names a file of weights."""
        suffix = os.path.splitext(self.outfile or "")[1].removeprefix(".")
        formats = WEIGHTS_FORMATS if self.to == "hf" else ("pth",)
        return suffix if suffix in formats and not os.path.isdir(self.outfile or "") else None


def adapter_pairs(adapters: Adapters) -> tuple[tuple[str, float], ...]:
    """(path, scale) of every adapter; one without a scale has 1."""
    if isinstance(adapters, str | os.PathLike):
        adapters = [adapters]
    pairs = (entry if isinstance(entry, tuple) else (entry, 1.0) for entry in adapters)
    return tuple((os.fspath(path), float(scale)) for path, scale in pairs)


def byte_size(value: int | str, option: str) -> int:
    """5GB, 500MB, 64K or a number of bytes: powers of 1000, or 1024 as in GiB. Raises UsageError for others."""
    match = re.fullmatch(r"([0-9]{1,30})(?:\.([0-9]{1,30}))? *(?:([KMGT])(I?)B?|B?)", str(value).upper())
    if match is None:
        raise UsageError(f"{option} is no size", found=value, expected="a number of bytes, or one like 5GB")
    unit: int = (1024 if match[4] else 1000) ** " KMGT".index(match[3] or " ")
    fraction = match[2] or "0"
    whole: int = 10 ** len(fraction)
    return int(match[1]) * unit + int(fraction) * unit // whole


def split_tensor_type(text: str) -> tuple[str, str]:
    """PATTERN=TYPE; the first = divides. Raises UsageError where a side is missing."""
    pattern, _, name = text.partition("=")
    if not pattern or not name:
        raise UsageError("--tensor-type is not PATTERN=TYPE", found=text)
    return pattern, name


def split_types(text: str) -> tuple[str, ...]:
    """The types of a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _has_placeholder(path: str) -> bool:
    return "{type}" in path or "{ftype}" in path
