"""Instruction sets that the kernels are compiled for, and the test for those of this processor."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPU_INFORMATION = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Variant:
    """A compilation of the kernels: the processor's features that it needs (as Linux names them), its flags."""

    name: str
    features: frozenset[str]
    flags: tuple[str, ...]


_AVX2 = {"avx2", "fma"}
_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma"}
_AMX = {"amx_tile", "amx_int8"}


def _variant(name: str, features: set[str]) -> Variant:
    """Build a variant; gcc and clang name features as Linux does, but for underscores (dashes in those of AMX)."""
    spelled = {"amx_tile": "amx-tile", "amx_int8": "amx-int8"}
    flags = (f"-m{spelled.get(feature, feature.replace('_', ''))}" for feature in sorted(features))
    return Variant(name, frozenset(features), tuple(flags))


VARIANTS = (
    _variant("amx", _AVX512 | _AMX),
    _variant("avx512vnni", _AVX512),
    _variant("avx2vnni", _AVX2 | {"avx_vnni"}),
    _variant("avx2", _AVX2),
)
"""Fastest first."""


@cache
def cpu_features() -> frozenset[str]:
    """The features of this processor; none where the system does not list them as Linux does."""
    if not CPU_INFORMATION.is_file():
        return frozenset()
    lines = CPU_INFORMATION.read_text(encoding="utf-8").splitlines()
    return next((frozenset(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), frozenset())


def supported_variants() -> list[Variant]:
    """The variants that this processor can run, fastest first."""
    return [variant for variant in VARIANTS if variant.features <= cpu_features()]


def find_variant(name: str) -> Variant:
    """The variant of a name; ValueError for an unknown one, or where the processor lacks what it needs."""
    for variant in VARIANTS:
        if variant.name == name:
            missing = sorted(variant.features - cpu_features())
            if missing:
                raise ValueError(f"variant {name!r} needs {', '.join(missing)}, which this processor lacks")
            return variant
    raise ValueError(
        f"there is no variant {name!r} of the CPU kernels; give one of {', '.join(v.name for v in VARIANTS)}"
    )
