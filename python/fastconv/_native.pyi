"""The compiled core: kernels and the streaming engine. Types are named by strings; shapes are rows x columns."""

from array import array
from collections.abc import Sequence

import numpy as np

class TypeInfo:
    """One row of the type table. block_size in elements; ggml_type -1: not stored by today's ggml."""

    @property
    def name(self) -> str: ...
    @property
    def ggml_type(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def block_bytes(self) -> int: ...
    @property
    def max_abs(self) -> float: ...
    @property
    def decodes(self) -> bool: ...
    @property
    def encodes(self) -> bool: ...
    @property
    def today(self) -> str:
        """Today's type of the same levels, its own name where it is one: blocks are repacked between such types."""

    @property
    def needs_importance(self) -> bool: ...

def types() -> list[TypeInfo]: ...
def isas() -> list[str]:
    """Instruction sets of this build that this machine can run, best first."""

def isa() -> str:
    """The instruction set in use. Raises ValueError if FASTCONV_ISA names one that cannot be."""

def heeds_importance(type: str) -> bool:
    """Whether the bytes of the type depend on the importance of columns."""

class Piece:
    def __init__(
        self,
        storage: int | np.ndarray,
        type: str,
        offset: int,
        row_stride: int,
        col_stride: int,
        row: int,
        n_rows: int,
        col: int,
        n_cols: int,
    ) -> None:
        """storage: a file descriptor (duplicated and mapped), or a C-contiguous array (kept alive).

        Raises ValueError where an element lies outside the storage.
        """

class Source:
    def __init__(
        self, n_rows: int, n_cols: int, pieces: Sequence[Piece], rows: array[int] | np.ndarray | None = None
    ) -> None:
        """Raises ValueError unless the pieces cover each stored row exactly once and rows names stored rows."""

class Delta:
    def __init__(self, b: Source, a: Source, scale: float, magnitude: Source | None = None) -> None: ...

class Output:
    def __init__(self, file: int, type: str, offset: int) -> None: ...

class Importance:
    def __init__(self, sums: Source, counts: Sequence[float]) -> None:
        """sums: (n_matrices, n_cols). counts: per matrix, what its sums are divided by; 0: all columns matter alike."""

class Job:
    def __init__(
        self,
        name: str,
        source: Source,
        deltas: Sequence[Delta],
        outputs: Sequence[Output],
        importance: Importance | None = None,
    ) -> None: ...

class DeltaStats:
    """What the deltas of one job did: |dW| and |W|, Frobenius norms in f64 before the types round."""

    @property
    def delta_norm(self) -> float: ...
    @property
    def base_norm(self) -> float: ...

class FinishedChunk:
    """A piece of a run whose bytes are in the output files. checksum: XXH64 of the XXH64s of its bytes in each.

    delta_squares, base_squares: |dW|^2 and |W|^2 of its rows, 0 without deltas.
    """

    def __init__(
        self, chunk: int, checksum: int, delta_squares: float, base_squares: float, rounded_blocks: int
    ) -> None: ...
    @property
    def chunk(self) -> int: ...
    @property
    def checksum(self) -> int: ...
    @property
    def delta_squares(self) -> float: ...
    @property
    def base_squares(self) -> float: ...
    @property
    def rounded_blocks(self) -> int: ...

def share_one_arena() -> None:
    """Threads reserve no address space of their own from now on: for processes where it is limited."""

def return_free_memory() -> None:
    """What was freed goes back to the system, as far as the C library keeps it."""

def least_memory(jobs: Sequence[Job], n_files: int) -> int:
    """Bytes of scratch, at most, of a run of these jobs with one thread and the smallest buffers."""

class Run:
    """A conversion under way in native threads."""

    def __init__(
        self,
        jobs: Sequence[Job],
        files: Sequence[int],
        threads: int,
        nonfinite: str = "error",
        tile_bytes: int = 0,
        isa: str = "",
        direct: bool = True,
        max_memory: int = 0,
        finished: Sequence[FinishedChunk] | None = None,
    ) -> None:
        """files: descriptors open for writing. Starts at once. tile_bytes 0: the default.

        direct: past the page cache, where the file system can. max_memory: bytes of scratch, kept where it can be; 0:
        no bound. finished: chunks that the files, open for reading too, may hold already; None: take_finished() is not
        called.
        """

    def wait(self, seconds: float) -> bool:
        """True once all is done; the GIL is released meanwhile.

        Raises NonFiniteValue, InputChanged, OSError for a failed write, and RuntimeError after a cancel.
        """

    def cancel(self) -> None:
        """Stops within a tile and joins the threads."""

    @property
    def bytes_done(self) -> int:
        """Input bytes (base tensors) consumed so far."""

    @property
    def n_chunks(self) -> int:
        """Pieces that the work is divided into."""

    @property
    def n_chunks_found(self) -> int:
        """Those that the files held already."""

    def take_finished(self) -> list[FinishedChunk]:
        """Chunks whose bytes all went to the files since the last call, not yet synced. After a cancel too."""

    def rounded_blocks(self) -> list[int]:
        """Per job, once done: blocks that were repacked and whose scales had to be rounded, summed over outputs."""

    def delta_stats(self) -> list[DeltaStats | None]:
        """Per job, once done; None where a job has no delta."""

class ComparisonStats:
    """What a comparison found of one tensor; x: the merged source, y: the file's values. Sums are of squares.

    Blocks whose bytes were compared (types without: groups of 32 elements), those that differ from what the source
    encodes to, and of these those that err out of proportion. Places are elements in the order of the file, -1: none.
    """

    @property
    def elements(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def differing_blocks(self) -> int: ...
    @property
    def far_blocks(self) -> int: ...
    @property
    def rounded_blocks(self) -> int:
        """Differing blocks that the source encodes to once its values are rounded otherwise; of a chunk's first 64."""

    @property
    def base_blocks(self) -> int:
        """Differing blocks that are what the source without its deltas encodes to."""

    @property
    def first_differing(self) -> int: ...
    @property
    def first_far(self) -> int: ...
    @property
    def not_finite(self) -> int: ...
    @property
    def first_not_finite(self) -> int: ...
    @property
    def source_not_finite(self) -> int: ...
    @property
    def max_error(self) -> float: ...
    @property
    def max_error_at(self) -> int: ...
    @property
    def source(self) -> float: ...
    @property
    def stored(self) -> float: ...
    @property
    def error(self) -> float: ...
    @property
    def own_error(self) -> float:
        """Of the source's own encoding; as far as bytes were compared."""

    @property
    def base_error(self) -> float:
        """Of y against the source without its deltas."""

    @property
    def delta(self) -> float: ...

class Comparison:
    """A file held against its source, in native threads."""

    def __init__(self, tensors: Sequence[tuple[Job, Source | None]], threads: int) -> None:
        """Jobs of one output each, and the tensor that is to be that output. Starts at once.

        None: the job's source is the file's own tensor, whose values are only looked through. Where the output's type
        is not the tensor's, values alone are compared. Raises ValueError.
        """

    def wait(self, seconds: float) -> bool:
        """True once all is done; the GIL is released meanwhile. Raises InputChanged, RuntimeError after a cancel."""

    def cancel(self) -> None: ...
    @property
    def bytes_done(self) -> int:
        """Bytes of the jobs' sources consumed so far."""

    def stats(self) -> list[ComparisonStats]:
        """Per tensor, once done."""

class NonFiniteValue(Exception):
    """args: (job index, row, column, value, type name)."""

class InputChanged(Exception):
    """An input file is no longer what it was when it was mapped, or a page of it cannot be read.

    args: (st_dev, st_ino, whether it is the latter).
    """

def reserve(descriptor: int, size: int) -> None:
    """Gives an open file `size` bytes of room on its disk. Raises OSError."""

def rename_new(old: bytes, new: bytes) -> None:
    """Gives a file a name that nothing has, in one step. Raises FileExistsError; OSError if there is no such step."""

def exchange_names(one: bytes, other: bytes) -> None:
    """Gives each of two files the other's name, in one step. Raises OSError."""

def read_rows(source: Source, start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) decoded to float32. Raises InputChanged."""

def is_zero(source: Source, start: int, stop: int) -> bool:
    """Whether rows [start, stop) are zero, of any sign. Raises InputChanged."""

def quantize(
    x: np.ndarray, type: str, threads: int = 1, isa: str = "", importance: np.ndarray | None = None
) -> np.ndarray:
    """x: float32 (n_rows, n_cols), C-contiguous -> uint8 (n_rows, row bytes). importance: float32 (n_cols,)."""

def dequantize(blocks: np.ndarray, type: str, threads: int = 1, isa: str = "") -> np.ndarray:
    """blocks: uint8 (n_rows, row bytes), C-contiguous -> float32 (n_rows, n_cols)."""

def quantize_into(
    x: np.ndarray,
    type: str,
    out: np.ndarray,
    isa: str = "",
    repeats: int = 1,
    importance: np.ndarray | None = None,
) -> None:
    """Encodes x (float32) over out (uint8), both C-contiguous, `repeats` times: for tests and benchmarks.

    importance: float32 (n_cols,), for x of n_rows x n_cols.
    """

def dequantize_into(blocks: np.ndarray, type: str, out: np.ndarray, isa: str = "", repeats: int = 1) -> None:
    """Decodes blocks (uint8) over out (float32), both C-contiguous of any shape, `repeats` times."""

def decode_max(elements: np.ndarray, type: str, out: np.ndarray, isa: str = "") -> float:
    """Decodes f16 or bf16 elements (uint8) over out (float32); returns max_abs(out)."""

def stored_max(elements: np.ndarray, type: str, isa: str = "") -> float:
    """The largest magnitude of f32, f16 or bf16 elements (uint8), as max_abs has it."""

def recodes() -> list[tuple[str, str]]:
    """The pairs of types between which stored elements go straight, with no f32 between."""

def recode_into(
    elements: np.ndarray, from_type: str, to_type: str, out: np.ndarray, isa: str = ""
) -> tuple[int, float]:
    """Recodes elements over out (both uint8, C-contiguous).

    Returns how many blocks had their scales rounded, and the largest magnitude, NaN also where it was not looked for.
    """

def lora_add(rows: np.ndarray, b: np.ndarray, a: np.ndarray, scale: float, isa: str = "") -> None:
    """rows += scale * b @ a in place, float32, in the order of csrc/merge/lora_rows.hpp."""

def max_abs(x: np.ndarray, isa: str = "") -> float:
    """The largest magnitude of x (float32); NaN if any element is."""

def sum_of_squares(x: np.ndarray, isa: str = "") -> float:
    """In float64, in the order of csrc/core/reductions.hpp."""

def square_norm(x: np.ndarray, isa: str = "") -> float:
    """sum_of_squares to within 1e-6 of its value, in the order of csrc/core/reductions.hpp."""
