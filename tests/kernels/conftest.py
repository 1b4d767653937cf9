"""Where kernels are tested: on the GPU if there is one, else on the CPU in Triton's interpreter (tests/conftest.py)."""

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def normal(device):
    """normal(*shape, seed=0, dtype=torch.float16): seeded normal numbers on the device."""

    def draw(*shape, seed=0, dtype=torch.float16):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)

    return draw
