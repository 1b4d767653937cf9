import pytest

from altq.models.family import FAMILIES, family_of


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen4", "gemma3", "gemma3n", "granitemoe", "bert", "Llama"])
def test_an_unknown_family_is_refused_without_the_name_of_another_architecture(name):
    known = ", ".join(FAMILIES)
    with pytest.raises(ValueError) as refusal:
        family_of(name)
    assert str(refusal.value) == (
        f"model family '{name}' is not known (known: {known}); add its description to altq/models/family.py"
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_same_sites_in_the_same_order(name):
    family = family_of(name)
    assert list(family.attention.input_sites) == ["qkv", "o"] and family.attention.selected_site == "qkv"
    assert list(family.ffn.input_sites) == ["gate_up", "down"] and family.ffn.selected_site == "gate_up"
    assert [len(names) for names in family.attention.input_sites.values()] == [3, 1]
    assert [p.rpartition(".")[2] for p in family.attention.projections] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert [p.rpartition(".")[2] for p in family.ffn.projections] == ["gate_proj", "up_proj", "down_proj"]
    assert family.half("attention") is family.attention and family.half("ffn") is family.ffn
