"""Coverage-guided fuzzing of one parser: python -m tests.fuzz.fuzz_parsers TARGET [CORPUS|INPUT] [OPTION...].

Needs atheris; the options are libFuzzer's. Ends with its code 77 and a file crash-* in the current folder where an
input is a finding: an error that is no FastconvError, ten seconds for one input, or more than 2 GB.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastconv", "json", "yaml"], enable_loader_override=False):
    from tests.fuzz import parsers

from tests.fuzz.figures import mapped_tally
from tests.fuzz.seeds import SEEDS, WORDS


def write_corpus(target: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]()):
        (folder / f"seed-{number}").write_bytes(seed)


def write_dictionary(target: str, file: Path) -> None:
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS[target]]
    file.write_text("".join(f'"{line}"\n' for line in lines))


def main() -> None:
    target, *options = sys.argv[1:]
    paths = [Path(option) for option in options if not option.startswith("-")]
    options = [option for option in options if option.startswith("-")]
    with tempfile.TemporaryDirectory() as scratch:
        if not (paths and paths[0].is_file()):  # else inputs to be run again
            paths = paths or [Path(scratch) / "corpus"]
            write_corpus(target, paths[0])
        dictionary = Path(scratch) / "words"
        defaults = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192"]
        if WORDS.get(target):
            write_dictionary(target, dictionary)
            defaults.append(f"-dict={dictionary}")
        devnull = os.open(os.devnull, os.O_WRONLY)
        if not os.environ.get("FUZZ_VERBOSE"):
            os.dup2(devnull, 1)  # sentencepiece and tokenizers talk

        tally = mapped_tally()

        def run_one(data: bytes) -> None:
            tally[0] += 1
            parsers.survives(target, data)

        atheris.Setup([sys.argv[0], *defaults, *options, *map(str, paths)], run_one)
        try:
            atheris.Fuzz()
        finally:
            parsers.remove_folders()


if __name__ == "__main__":
    main()
