"""What a verification found: rules that a file breaks, and tensor by tensor how it compares with its source."""

from __future__ import annotations

import math

from fastconv.finding import Finding
from fastconv.record import record


@record(eq=True)
class TensorCheck:
    """One tensor of the file against the merged source.

    state: "exact": the very bytes that the source encodes to; "close": other bytes, within what its type reaches;
    "off": not what it should be; "unchecked": its type can be neither decoded nor compared. reason: in words, of the
    last two. rmse, max_error: of the decoded values. max_error_at: row and column as the file has them. own_rmse: of
    fastconv's own encoding of the source, None where there is none. blocks, differing: whose bytes were compared, and
    differ. delta_share: the part of the adapters' change that the file holds, 1 when all is there; None without.
    delta_ratio: |dW| / |W + dW|.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    state: str
    reason: str = ""
    rmse: float = math.nan
    max_error: float = math.nan
    max_error_at: tuple[int, int] | None = None
    snr_db: float = math.nan
    cosine: float = math.nan
    own_rmse: float | None = None
    blocks: int = 0
    differing: int = 0
    delta_share: float | None = None
    delta_ratio: float | None = None


@record(eq=True)
class Verification:
    """The result. source: what the file was held against, None: nothing. checksum: "ok", "off" or None: none is there.

    findings: what is wrong beyond single tensors' values. notes: what was not checked, and what is worth knowing.
    """

    path: str
    format: str
    source: str | None
    adapters: tuple[str, ...]
    n_tensors: int
    findings: tuple[Finding, ...]
    tensors: tuple[TensorCheck, ...]
    checksum: str | None
    notes: tuple[str, ...]
    bytes_read: int
    seconds: float

    @property
    def off(self) -> tuple[TensorCheck, ...]:
        return tuple(tensor for tensor in self.tensors if tensor.state == "off")

    @property
    def is_fine(self) -> bool:
        return not self.findings and not self.off
