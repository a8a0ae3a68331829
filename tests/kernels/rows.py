"""Rows that try a quantizer: each kind is (16, 1536) float32, finite."""

from __future__ import annotations

import functools

import numpy as np

SHAPE = (16, 1536)  # 48 blocks of 32 a row, 6 super-blocks of 256


@functools.cache
def kinds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20230511)
    gauss = rng.standard_normal(SHAPE).astype(np.float32)
    bits = rng.integers(0, 2**32, SHAPE, dtype=np.uint32)
    any_bits = bits.view(np.float32)
    steps = rng.integers(-17, 18, SHAPE).astype(np.float32)
    steps.reshape(-1, 32)[:, 5] = rng.choice(np.float32([-16, 16, -8, 8]), steps.size // 32)
    mixed = gauss * np.exp2(rng.integers(-40, 20, SHAPE))
    sub_blocks = gauss.reshape(-1, 16) * np.exp2(rng.integers(-30, 1, gauss.size // 16))[:, None]
    sparse = np.where(rng.random(SHAPE) < 0.05, gauss, 0)
    one_hot = np.zeros(SHAPE)
    one_hot.reshape(-1, 32)[np.arange(one_hot.size // 32), rng.integers(0, 32, one_hot.size // 32)] = 1.5
    made = {
        "gaussian": gauss * np.float32(0.02),
        "heavy-tailed": rng.standard_cauchy(SHAPE),
        "bf16": (gauss.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "constant": np.repeat(gauss[:, :1], SHAPE[1], axis=1),
        "constant blocks": np.repeat(gauss.reshape(-1)[::32], 32).reshape(SHAPE),
        "zero": np.zeros(SHAPE),
        "negative zero": np.full(SHAPE, -0.0),
        "signed zeros": np.copysign(0.0, gauss),
        "zeros and positive": np.where(gauss > 0, gauss, np.copysign(0.0, np.roll(gauss, 1))),
        "zeros and negative": np.where(gauss < 0, gauss, np.copysign(0.0, np.roll(gauss, 1))),
        "plus and minus the same": np.copysign(0.75, gauss),
        "ties": steps / 2,  # halves of a step: every rounding rule shows
        "ties of 127": rng.integers(-254, 255, SHAPE) / 2,
        "around ties": np.nextafter((steps / 2).astype(np.float32), np.copysign(np.float32(9), gauss)),
        "sparse": sparse,
        "one element": one_hot,
        "magnitudes mixed": mixed,
        "sub-blocks apart": sub_blocks.reshape(SHAPE),
        "f16 denormal scales": gauss * 1e-6,
        "f16 zero scales": gauss * 1e-8,
        "least scale of a sub-block": gauss * 1e-15,
        "above the least scale": gauss * 1e-13,
        "cubes underflow": gauss * 3e-15,
        "f32 denormal scales": gauss * 1e-38,
        "f32 denormals": gauss * 1e-41,
        "least denormals": steps * 2.0**-149,
        "near f16 overflow": np.clip(gauss, -4, 4) * 65504 * 1.9,
        "past f16 overflow": gauss * 1e7,
        "cubes overflow": gauss * 1e13,
        "squares overflow": gauss * 1e20,
        "near f32 overflow": np.clip(gauss, -3.4, 3.4) * 1e38,
        "any finite bits": np.where(np.isfinite(any_bits), any_bits, 1.0),
    }
    with np.errstate(all="ignore"):
        return {name: np.ascontiguousarray(x, np.float32) for name, x in made.items()}
