"""Models that were converted by llama.cpp's own programs into every file type (tests/golden/quantized/make.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastconv.plan.file_types import FILE_TYPES
from tests import imatrices
from tests.models import LlamaShape, write_hf

ROOT = Path(__file__).parents[2]
QUANTIZED = tuple(name for name, file_type in FILE_TYPES.items() if not file_type.is_float)
# Files that llama-quantize writes with an importance matrix only.
NEED_IMATRIX = ("iq3_xxs", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "q2_k_s", "iq3_xs")
IMATRICES = {"imatrix.gguf": imatrices.write_gguf, "imatrix.dat": imatrices.write_dat}
# Those of the older format, which differ in how they are read and not in what follows.
DAT_TYPES = ("q4_0", "iq4_xs", "q4_k_m")

_PARTS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class OptionsCase:
    """The same request to llama-quantize and to convert()."""

    name: str
    outtype: str
    arguments: tuple[str, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class QuantizedCase:
    """write: a Hugging Face folder into the path, or a GGUF file where the name of the source ends so.

    matrices: shapes, by GGUF name, of what an importance matrix has: the matrices within layers. options: runs beyond
    every file type, with and without importance.
    """

    name: str
    matrices: dict[str, tuple[int, ...]]
    write: Callable[[Path], object]
    options: tuple[OptionsCase, ...] = ()
    slow: bool = False
    source: str = "model"

    def write_imatrices(self, folder: Path) -> None:
        """The importance matrix in both formats."""
        entries = imatrices.random_entries(self.matrices)
        for file_name, write in IMATRICES.items():
            write(folder / file_name, entries)

    def runs(self) -> list[tuple[str, str | None]]:
        """(file type, file name of the importance matrix) of every recorded file, options apart."""
        plain = [(name, None) for name in QUANTIZED if name not in NEED_IMATRIX]
        weighted = [(name, "imatrix.gguf") for name in QUANTIZED]
        return [*plain, *weighted, *((name, "imatrix.dat") for name in DAT_TYPES)]


OPTIONS = (
    OptionsCase("pure", "q4_k_m", ("--pure",), {"pure": True}),
    OptionsCase("leave_output", "q5_k_s", ("--leave-output-tensor",), {"leave_output_tensor": True}),
    OptionsCase(
        "named_types",
        "q3_k_l",
        ("--token-embedding-type", "q4_1", "--output-tensor-type", "bf16", "--tensor-type", "attn_.=iq4_nl"),
        {"token_embedding_type": "q4_1", "output_tensor_type": "BF16", "tensor_types": {"attn_.": "iq4_nl"}},
    ),
    OptionsCase(
        "float_file_with_named_types",
        "f16",
        ("--token-embedding-type", "q8_0", "--output-tensor-type", "q6_k"),
        {"token_embedding_type": "q8_0", "output_tensor_type": "q6_k"},
    ),
    OptionsCase("float_file_that_leaves_output", "f16", ("--leave-output-tensor",), {"leave_output_tensor": True}),
)


def _tiny(name: str, options: tuple[OptionsCase, ...] = (), **sizes: Any) -> QuantizedCase:
    shape = LlamaShape(**sizes)
    return QuantizedCase(name, _matrices(shape), lambda folder: write_hf(folder, shape), options)


def _matrices(shape: LlamaShape) -> dict[str, tuple[int, ...]]:
    return {
        f"blk.{name.split('.')[2]}.{part}.weight": dims
        for name, dims in shape.tensor_shapes().items()
        for part, module in _PARTS.items()
        if f".{module}.weight" in name
    }


_EXPERTS = {
    "blk.0.attn_q.weight": (256, 256),
    "blk.0.attn_k.weight": (64, 256),
    "blk.0.attn_v.weight": (64, 256),
    "blk.0.attn_output.weight": (256, 256),
    "blk.0.ffn_gate_inp.weight": (8, 256),
    "blk.0.ffn_gate_exps.weight": (8, 96, 256),
    "blk.0.ffn_up_exps.weight": (8, 96, 256),
    "blk.0.ffn_down_exps.weight": (8, 256, 96),
}


def _write_experts(path: Path) -> None:
    """A model of eight experts, f32, as llama.cpp's converter would lay it out."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(320)
    writer.add_expert_count(8)
    writer.add_expert_used_count(2)
    rng = np.random.default_rng(11)
    others = {"token_embd.weight": (320, 256), "output.weight": (320, 256), "output_norm.weight": (256,)}
    norms = {"blk.0.attn_norm.weight": (256,), "blk.0.ffn_norm.weight": (256,)}
    for name, shape in (others | norms | _EXPERTS).items():
        writer.add_tensor(name, rng.normal(0, 0.02, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_smollm2(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    import smollm2

    smollm2.write_checkpoint(folder)


CASES = (
    _tiny("mha", OPTIONS, n_embd=256, n_ff=512, n_layer=2, n_head=4, n_head_kv=4),
    _tiny("grouped", n_embd=256, n_ff=256, n_layer=4, n_head=8, n_head_kv=2),
    _tiny("tied", n_embd=320, n_ff=768, n_layer=2, n_head=4, n_head_kv=2, tied=True),
    _tiny("rows_of_16", n_embd=256, n_ff=304, n_layer=1, n_head=4, n_head_kv=1),
    QuantizedCase("experts", _EXPERTS, _write_experts, source="model.gguf"),
    QuantizedCase(
        "smollm2",
        _matrices(LlamaShape(n_vocab=49152, n_embd=576, n_ff=1536, n_layer=30, n_head=9, n_head_kv=3, tied=True)),
        _write_smollm2,
        slow=True,
    ),
)
