"""The long runs' own machinery: counts that no end loses, what is worked on next, findings, the table."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.fuzz.figures import BEGIN, DOCUMENT, END, TALLY, Figures, mapped_tally, table, take_tally
from tests.fuzz.soak import TIMED_OUT, Soak
from tests.fuzz.soak_parts import Part, crashes_in

# A worker: counts to a number, then does what it is told with the seconds that it has.
WORKER = """
import mmap, os, sys, time
fd = os.open(os.environ["FASTCONV_TALLY"], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8)
tally = mmap.mmap(fd, 8)
tally[:] = int(sys.argv[1]).to_bytes(8, "little")
exec(sys.argv[2])
"""


def worker(name: str, count: int, then: str = "") -> Part:
    return Part(name, lambda seconds: [sys.executable, "-S", "-c", WORKER, str(count), then.format(seconds=seconds)])


def soak(folder: Path, *parts: Part, done: dict[str, int] | None = None, nearest_first: bool = False) -> Soak:
    return Soak(Figures(folder / "soak.json", done or {}), list(parts), folder, 60, nearest_first)


def test_counts_add_up_to_the_goal_and_end_there(tmp_path: Path) -> None:
    run = soak(tmp_path, worker("parser gguf", 4_000_000), worker("sizes", 500), done={"parser gguf": 100})
    run.run(60, 1)
    again = Figures.read(tmp_path / "soak.json")
    assert again.done == {"parser gguf": 12_000_100, "sizes": 500}
    assert again.findings == []
    assert again.seconds("sizes", 500) is not None


def test_an_end_before_the_time_loses_nothing(tmp_path: Path) -> None:
    run = soak(tmp_path, worker("engine", 7, "time.sleep({seconds})"))
    tally = tmp_path / "tallies" / "engine.0"
    run.run(60, 1, lambda: tally.exists() and any(tally.read_bytes()))
    assert Figures.read(tmp_path / "soak.json").done == {"engine": 7}
    assert run.figures.findings == []
    assert not tally.exists()


def test_what_a_killed_run_left_is_added_once(tmp_path: Path) -> None:
    (tmp_path / "tallies").mkdir()
    (tmp_path / "tallies" / "blocks q4_0.1").write_bytes((5).to_bytes(8, "little"))
    (tmp_path / "tallies" / "engine.0").touch()  # killed before it had its size
    for _ in range(2):
        run = soak(tmp_path)
        run.figures = Figures.read(tmp_path / "soak.json")
        run.run(1, 1)
    assert run.figures.done == {"blocks q4_0": 5, "engine": 0}


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("print('ERROR: out of bounds'); sys.exit(77)", "ERROR: out of bounds"),
        ("os.kill(os.getpid(), 9)", "ended without a word"),
        (f"print('too slow'); sys.exit({TIMED_OUT})", "too slow"),
    ],
)
def test_a_finding_leaves_the_part_out(tmp_path: Path, then: str, told: str) -> None:
    run = soak(tmp_path, worker("engine", 3, then), worker("sizes", 500))
    run.run(60, 1)
    assert Figures.read(tmp_path / "soak.json").findings == [f"engine: {told}"]
    assert run.figures.done == {"engine": 3, "sizes": 500}


def test_nothing_done_is_a_finding(tmp_path: Path) -> None:
    run = soak(tmp_path, worker("sizes", 0))
    run.run(60, 1)
    assert run.figures.findings == ["sizes: ended without a word"]


def test_what_is_slow_beside_other_work_alone_is_none(tmp_path: Path) -> None:
    """The input that took too long takes the corpus' place; then it ends with 0."""
    script = f"import sys; print('Test unit written to slow-1'); sys.exit({TIMED_OUT} * (sys.argv[1] != 'slow-1'))"
    corpus = str(tmp_path / "corpus" / "engine")
    part = Part("sizes", lambda _: [sys.executable, "-S", "-c", script, corpus], lambda told: 500)
    run = soak(tmp_path, part)
    run.run(60, 1)
    assert run.figures.findings == []


def name_of_next(run: Soak) -> str | None:
    part = run.next()
    return part and part.name


def test_what_comes_next(tmp_path: Path) -> None:
    parts = [Part(name, lambda _: []) for name in ("parser gguf", "blocks q4_0", "engine", "sizes")]
    run = soak(tmp_path, *parts)
    # 0.2 of 10 million in 10 s, 0.1 of 1000 million in 1 s, 0.5 of 50 million in 100 s; the last has reached its goal.
    for part, count, seconds in (
        ("parser gguf", 2_000_000, 10),
        ("blocks q4_0", 100_000_000, 1),
        ("engine", 25_000_000, 100),
        ("sizes", 500, 1),
    ):
        run.figures.add(part, count, seconds)
    assert name_of_next(run) == "blocks q4_0"
    run.nearest_first = True
    assert name_of_next(run) == "blocks q4_0"  # 9 s
    run.figures.add("blocks q4_0", 0, 9)  # 90 s: now it is parser gguf with 40
    assert name_of_next(run) == "parser gguf"
    run.first = frozenset({"engine"})
    assert name_of_next(run) == "engine"
    run.left_out = {part.name for part in parts}
    assert name_of_next(run) is None


def test_tallies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TALLY, str(tmp_path / "tally"))
    for _ in range(3):
        mapped_tally()[0] += 2**33
    assert take_tally(tmp_path / "tally") == 3 * 2**33
    assert take_tally(tmp_path / "tally") == 0
    monkeypatch.delenv(TALLY)
    mapped_tally()[0] += 1


def test_crashes_are_counted_from_what_is_printed() -> None:
    told = 'seen\n{"campaign": "faults", "faults": 90, "not reached": 3}\n{"campaign": "resumed", "faults": 4}\n'
    assert (crashes_in("faults", told), crashes_in("resumed", told), crashes_in("sizes", told)) == (90, 4, 0)


def test_figures_become_a_table(tmp_path: Path) -> None:
    figures = Figures(tmp_path / "soak.json", {"parser gguf": 12345}, findings=["engine: a|b"])
    figures.add("blocks q4_0", 1_000_000_000, 7200)
    lines = "".join(table(figures))
    assert "| inputs through the parser of `gguf` | 12,345 | 10,000,000 |  |\n" in lines
    assert "| blocks of `q4_0` through every instruction set | 1,000,000,000 | 1,000,000,000 | 2 |\n" in lines
    assert "\n1 of these 2 goals are reached; all at full length: 2 core hours." in lines
    assert "- engine: a/b\n" in lines
    text = DOCUMENT.read_text(encoding="utf-8")
    assert re.search(re.escape(BEGIN) + ".*" + re.escape(END), text, re.DOTALL)
