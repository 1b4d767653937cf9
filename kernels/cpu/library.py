"""The compiled kernels as functions, and the choice of a variant for this machine."""

import ctypes
import warnings
from ctypes import c_double, c_float, c_int, c_int64, c_long, c_void_p
from functools import cache

from kernels.cpu.build import BuildError, build
from kernels.cpu.variant import VARIANTS, find_variant, supported_variants

TORCH = "torch"
"""The name of the path without kernels of our own: torch._int_mm (kernels/cpu/torch_path.py)."""


class Layer(ctypes.Structure):
    """The struct Layer of source/layer.h, which describes the fields."""

    _fields_ = [
        *((name, c_int64) for name in ("d_in", "d_out", "depth", "weight_bits")),
        *((name, c_void_p) for name in ("weights", "weight_scale", "bias")),
        *((name, c_int64) for name in ("d1", "d2")),
        *((name, c_void_p) for name in ("left", "right")),
        ("right_stride", c_int64),
        *((name, c_int64) for name in ("activation_bits", "is_signed", "asymmetric")),
        *((name, c_float) for name in ("low_clip", "high_clip")),
    ]


@cache
def load_library(name: str) -> ctypes.CDLL:
    """The functions of a variant, compiled if need be.

    Raises ValueError where there is no such variant or the processor cannot run it, BuildError where it cannot be
    compiled or the system withholds what it needs.
    """
    variant = find_variant(name)
    try:
        library = ctypes.CDLL(str(build(variant)))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded: {error}") from error
    library.altq_linear.argtypes = c_void_p, c_void_p, c_long, c_void_p, c_int
    library.altq_quantize.argtypes = c_void_p, c_void_p, c_long, c_void_p, c_long, c_void_p, c_void_p, c_int
    library.altq_cache.argtypes = c_void_p, *4 * (c_long,), c_void_p, c_void_p, c_long, c_void_p, c_int
    library.altq_half_linear.argtypes = c_void_p, c_void_p, *3 * (c_long,), c_void_p, c_int
    library.altq_read.argtypes = c_void_p, c_long, c_int
    library.altq_peak.argtypes, library.altq_peak.restype = (c_long, c_long), c_double
    if library.altq_prepare():
        raise BuildError(f"the system does not lend the registers that variant {name!r} needs")
    return library


@cache
def default_variant() -> str:
    """The fastest variant that runs here, or "torch" where none does; then a warning says why, once."""
    reason = f"this processor runs none of {', '.join(variant.name for variant in VARIANTS)}"
    for variant in supported_variants():
        try:
            load_library(variant.name)
            return variant.name
        except BuildError as error:
            reason = str(error)
    warnings.warn(f"quantized layers run on torch._int_mm, at a fraction of the speed: {reason}", stacklevel=2)
    return TORCH
