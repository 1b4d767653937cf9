import pytest
import torch

from kernels.cpu.build import BuildError
from kernels.cpu.library import TORCH, load_library
from kernels.cpu.variant import VARIANTS, supported_variants


@pytest.fixture(params=[*(v.name for v in VARIANTS), TORCH])
def variant(request):
    """Each variant that this machine runs, the slower ones of a faster processor included."""
    if request.param != TORCH:
        if request.param not in [v.name for v in supported_variants()]:
            pytest.skip(f"this processor does not run {request.param}")
        try:
            load_library(request.param)
        except BuildError as error:
            pytest.skip(f"{request.param} cannot be built: {error}")
    return request.param


@pytest.fixture
def threads():
    """Sets the number of threads; it is put back at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
