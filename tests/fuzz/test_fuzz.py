"""A short run of what soak.py does for hours: sound inputs are read, damaged ones are read or refused in one line."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.test_run import subprocess_environment
from tests.fuzz import parsers
from tests.fuzz.figures import TALLY, take_tally
from tests.fuzz.seeds import SEEDS, WORDS

N_INPUTS = 300


@pytest.fixture(scope="module", autouse=True)
def _folders() -> Iterator[None]:
    yield
    parsers.remove_folders()


def test_every_parser_has_seeds() -> None:
    assert SEEDS.keys() == parsers.TARGETS.keys()
    assert WORDS.keys() <= SEEDS.keys()


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_a_seed_is_read(target: str) -> None:
    """Or most of the parser would never be reached."""
    read = [parsers.survives(target, seed) for seed in SEEDS[target]()]
    assert target == "index" or any(read)


@pytest.mark.parametrize("target", parsers.TARGETS)
def test_damaged_inputs_are_read_or_refused(target: str) -> None:
    rng = random.Random(target)
    pool, words = SEEDS[target](), WORDS.get(target, [])
    for _ in range(N_INPUTS):
        data = bytearray(rng.choice(pool))
        for _ in range(rng.randint(1, 4)):
            at, kind = rng.randint(0, len(data)), rng.randrange(5)
            if kind == 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif kind == 1:
                del data[at : at + rng.randint(1, 8)]
            elif kind == 2 and words:
                data[at:at] = rng.choice(words)
            elif kind == 3:
                data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
            else:
                begin = rng.randint(0, len(data))
                data[at:at] = data[begin : begin + rng.randint(1, 32)]
        parsers.survives(target, bytes(data))


# Inputs that once were findings, and what each stood for.
FOUND = {
    "an end-of-text token that is no text": ("tokenizer_config", b'{"eos_token": "<unk>\\ud800"}'),
    "a number beyond float64": ("lit_yaml", b"lora_alpha: 0x" + b"f" * 400),
    "the same, of more digits than Python prints": ("lit_yaml", b"lora_r: 0x" + b"f" * 5000),
    "aliases that multiply": ("lit_yaml", b"a: &a [1, 1]\nb: &b [*a, *a]\n" + b"r: [*b, *b]\n"),
    "an id of 5000 digits": (
        "tokenizer_config",
        b'{"added_tokens_decoder": {"' + b"9" * 5000 + b'": {"content": "x"}}}',
    ),
    "a pattern that backtracks": (
        "adapter_config",
        b'{"peft_type": "LORA", "rank_pattern": {"(([a-z._0-9]+)+)+!": 4}}',
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_stays_repaired(case: str) -> None:
    parsers.survives(*FOUND[case])


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="atheris has no wheels for it")
@pytest.mark.parametrize("target", parsers.TARGETS)
def test_guided_by_coverage(tmp_path: Path, target: str) -> None:
    """The same inputs in every run: new ones are for soak.py, whose findings are looked into, not run again."""
    command = [sys.executable, "-m", "tests.fuzz.fuzz_parsers", target, "-max_total_time=3", "-seed=1"]
    environment = subprocess_environment() | {TALLY: str(tmp_path / "tally")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert take_tally(tmp_path / "tally") > 100
