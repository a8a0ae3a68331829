"""What a conversion is asked to do, checked for sense before any file is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastconv.errors import UsageError

TARGETS: dict[str, tuple[str, int]] = {
    "gguf": ("gguf", 3),
    "ggjt": ("ggjt", 3),
    "ggjt-v1": ("ggjt", 1),
    "ggjt-v2": ("ggjt", 2),
    "ggjt-v3": ("ggjt", 3),
}
"""--to -> (layout, version)."""

_MOST_THREADS = 1 << 16
_LONGEST_CONTEXT = (1 << 31) - 1  # what readers of either format hold

NON_FINITE = ("error", "keep", "clamp")
VOCABULARY_KINDS = ("spm", "bpe")


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """The options of one conversion.

    source: directory or file. outtypes: file types, or ("auto",). outfile: None: beside the input; holds {type} where
    several types are asked for. adapters: (path, scale). threads: None: all CPUs this process may use. n_ctx: context
    length, None: as the source says. vocab_dir: None: beside the source. vocab_kind: None: detected.

    Raises UsageError where options contradict each other or name what does not exist.
    """

    source: str
    to: str = "gguf"
    outtypes: tuple[str, ...] = ("auto",)
    outfile: str | None = None
    adapters: tuple[tuple[str, float], ...] = ()
    pure: bool = False
    threads: int | None = None
    vocab_dir: str | None = None
    vocab_kind: str | None = None
    vocab_only: bool = False
    n_ctx: int | None = None
    overwrite: bool = False
    nonfinite: str = "error"

    def __post_init__(self) -> None:
        for option, path in (
            ("the source", self.source),
            ("--outfile", self.outfile),
            ("--vocab-dir", self.vocab_dir),
            *(("--lora", path) for path, _ in self.adapters),
        ):
            if path == "":
                raise UsageError(f"{option} is an empty name")
        if self.outfile == "-":
            raise UsageError("cannot write to standard output: a file is written at many places at once")
        if self.to not in TARGETS:
            raise UsageError("unknown target", found=self.to, expected=f"one of {', '.join(TARGETS)}")
        if self.nonfinite not in NON_FINITE:
            raise UsageError("unknown --nonfinite", found=self.nonfinite, expected=f"one of {', '.join(NON_FINITE)}")
        if self.vocab_kind is not None and self.vocab_kind not in VOCABULARY_KINDS:
            raise UsageError(
                "unknown --vocabtype", found=self.vocab_kind, expected=f"one of {', '.join(VOCABULARY_KINDS)}"
            )
        for option, number, largest in (
            ("--concurrency", self.threads, _MOST_THREADS),
            ("--ctx", self.n_ctx, _LONGEST_CONTEXT),
        ):
            if number is not None and not 1 <= number <= largest:
                raise UsageError(f"{option} is out of range", found=number, expected=f"1 to {largest}")
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
        if self.vocab_only and (self.adapters or len(self.outtypes) > 1):
            raise UsageError("--vocab-only writes no tensors: it goes with neither --lora nor several types")

    def target_path(self, type_name: str) -> str:
        """The path of the output file of one type."""
        if self.outfile is not None:
            return self.outfile.replace("{type}", type_name).replace("{ftype}", type_name)
        folder = self.source if os.path.isdir(self.source) else os.path.dirname(os.path.abspath(self.source))
        stem = "vocab" if self.vocab_only else type_name
        extension = "gguf" if TARGETS[self.to][0] == "gguf" else "bin"
        return os.path.join(folder, f"ggml-{'' if self.vocab_only else 'model-'}{stem}.{extension}")


def split_types(text: str) -> tuple[str, ...]:
    """The types of a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _has_placeholder(path: str) -> bool:
    return "{type}" in path or "{ftype}" in path
