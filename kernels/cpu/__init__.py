"""CPU kernels: quantized linear layers in C, compiled at first use for the instructions that the processor has.

No CPU multiplies 4-bit integers: codes of activations of 2 to 8 bits are bytes in every product, so that W4A4 and W4A8
run equally fast.
"""

from kernels.cpu.activations import Activations
from kernels.cpu.cache import CacheQuantizer
from kernels.cpu.half_linear import HalfLinear
from kernels.cpu.library import default_variant
from kernels.cpu.linear import QuantizedLinear

__all__ = ["Activations", "CacheQuantizer", "HalfLinear", "QuantizedLinear", "default_variant"]
