import torch
from models_for_tests import logits, make_tokens, save_tiny_model
from torch import nn

from altq.experiment.kinds import HALVES
from altq.models.joints import Projection, SharedInput, attach_cache_joint
from altq.models.skeleton import Skeleton
from altq.models.sublayer import Sublayer


class Counting:
    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x)
        return x + 1


def test_an_input_is_computed_once_for_all_its_readers():
    function = Counting()
    shared = SharedInput(function, num_readers=3)
    x = torch.zeros(2)
    outputs = [shared(x) for _ in range(3)]
    assert len(function.seen) == 1 and all(output is outputs[0] for output in outputs)
    assert shared._kept is None  # nothing is held once all have read


def test_the_same_tensor_is_computed_anew_once_all_have_read_it():
    function = Counting()
    shared = SharedInput(function, num_readers=2)
    x = torch.zeros(2)
    for expected in (1, 1, 2, 2):
        shared(x)
        assert len(function.seen) == expected
    x.fill_(5)
    assert shared(x).tolist() == [6, 6]  # so a tensor changed in place is not mistaken for what it was


def test_another_input_of_equal_value_is_another_input():
    function = Counting()
    shared = SharedInput(function, num_readers=2)
    shared(torch.zeros(2))
    shared(torch.zeros(2))
    assert len(function.seen) == 2


def test_a_projection_is_a_linear_layer_of_its_shared_input():
    linear = nn.Linear(3, 2)
    projection = Projection(linear, SharedInput(lambda x: 2 * x, 1))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(projection(x), linear(2 * x).detach())
    assert not list(projection.parameters())  # the original stays the owner
    unbiased = Projection(nn.Linear(3, 2, bias=False), SharedInput(lambda x: x, 1))
    assert unbiased.bias is None and unbiased(x).shape == (4, 2)


def test_each_site_of_a_model_computes_its_input_once_for_a_forward_pass(tmp_path):
    skeleton = Skeleton(save_tiny_model("qwen3", tmp_path))
    tokens = make_tokens(windows=2)
    model = skeleton.fill()
    expected = logits(model, tokens)
    calls = []

    def counted(site):
        def see(x):
            calls.append(site)
            return x

        return see

    for block in model.get_submodule(skeleton.family.blocks):
        for half in HALVES:
            sublayer = Sublayer(block, skeleton.family, half)
            sites = sublayer.half.input_sites
            sublayer.install({site: SharedInput(counted(site), len(names)) for site, names in sites.items()})
    assert torch.equal(logits(model, tokens), expected)
    assert calls == 2 * ["qkv", "o", "gate_up", "down"]


def test_queries_and_keys_pass_the_cache_joint_after_rotary_embedding_and_norms(tmp_path):
    skeleton = Skeleton(save_tiny_model("qwen3", tmp_path))
    tokens = make_tokens(windows=2, length=7)
    model = skeleton.fill()
    expected = logits(model, tokens)
    seen = {}

    def joint(query, key, value):
        seen["shapes"] = [tuple(t.shape) for t in (query, key, value)]
        return query * 2, key / 2, value

    attention = model.model.layers[0].self_attn
    attach_cache_joint(attention, joint)
    torch.testing.assert_close(logits(model, tokens), expected)
    assert seen["shapes"] == [(2, 4, 7, 6), (2, 2, 7, 6), (2, 2, 7, 6)]
    attach_cache_joint(attention, lambda query, key, value: (query, key, torch.zeros_like(value)))
    assert not torch.allclose(logits(model, tokens), expected)
