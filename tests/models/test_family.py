import pytest

from altq.models.family import FAMILIES, family_of


def test_an_unknown_family_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"'qwen4' is not known; did you mean qwen[23]\?.*altq/models/family.py"):
        family_of("qwen4")
    with pytest.raises(ValueError, match=r"'bert' is not known \(known: llama"):
        family_of("bert")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_same_sites_in_the_same_order(name):
    family = family_of(name)
    assert list(family.attention.input_sites) == ["qkv", "o"] and family.attention.selected_site == "qkv"
    assert list(family.ffn.input_sites) == ["gate_up", "down"] and family.ffn.selected_site == "gate_up"
    assert [len(names) for names in family.attention.input_sites.values()] == [3, 1]
    assert [p.rpartition(".")[2] for p in family.attention.projections] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [p.rpartition(".")[2] for p in family.ffn.projections] == ["gate_proj", "up_proj", "down_proj"]
    assert family.half("attention") is family.attention and family.half("ffn") is family.ffn
