import pytest

from kernels.measure.layers import LLAMA_2_7B
from kernels.measure.roofline import A100, FLOAT16, GPUS, H100, LayerKind, Work, layer_seconds, linear_work

AFFINE = LayerKind(4, 4, 4, (("qkv", 128), ("o", 32), ("gate_up", 128), ("down", 86 + 128)))


# The limits computed for the published speed table; how much elementwise traffic was counted there is not known.
@pytest.mark.parametrize(
    ("gpu", "int4", "limits"),
    [(A100, True, (2.75, 2.59, 2.34)), (A100, False, (1.70, 1.66, 1.59)), (H100, False, (1.58, 1.55, 1.50))],
)
def test_the_limits_of_prefill(gpu, int4, limits):
    for context, limit in zip((2048, 4096, 8192), limits, strict=True):
        half = layer_seconds(gpu, LLAMA_2_7B, FLOAT16, batch=1, context=context, prefill=True)
        quantized = layer_seconds(gpu, LLAMA_2_7B, AFFINE, batch=1, context=context, prefill=True, int4=int4)
        assert half / quantized == pytest.approx(limit, rel=0.06)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        (AFFINE, (3.53, 3.60, 3.65, 3.70)),
        (LayerKind(16, 4, 4), (1.39, 1.69, 2.10, 2.57)),  # cache only
    ],
)
def test_the_limits_of_decoding(kind, limits):
    for context, limit in zip((256, 512, 1024, 2048), limits, strict=True):
        half, quantized = (
            layer_seconds(A100, LLAMA_2_7B, k, batch=64, context=context, prefill=False) for k in (FLOAT16, kind)
        )
        assert half / quantized == pytest.approx(limit, rel=0.06)


def test_the_larger_limit_binds():
    few, many = (linear_work(tokens, 4096, 4096, multiply="int8") for tokens in (1, 8192))
    assert few.bound(A100) == (few.bytes / A100.bandwidth, "memory")
    assert many.bound(A100) == (2 * 8192 * 4096**2 / A100.int8, "int8 tensor cores")
    # Half a byte a weight and an activation, two an output.
    assert few.bytes == 4096**2 / 2 + 4096 / 2 + 2 * 4096


def test_an_int4_product_is_refused_where_it_is_emulated():
    with pytest.raises(ValueError, match="H100 has no int4 tensor cores"):
        Work(int4=1.0).bound(H100)


def test_rates_are_in_order():
    for gpu in GPUS:
        assert gpu.float16 < gpu.int8 <= (gpu.int4 or gpu.int8) and gpu.bandwidth < 1e13
