import pytest
import torch

from altq.transforms.heads import HeadAffine, HeadMixing


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("heads", "group", "head_dim"), [(1, 1, 5), (2, 3, 4), (3, 1, 6), (1, 7, 2)])
def test_scores_of_queries_and_keys_stay(heads, group, head_dim):
    transform = HeadAffine(normal(heads, head_dim, head_dim))
    queries, keys = normal(2, heads * group, 9, head_dim, seed=1), normal(2, heads, 9, head_dim, seed=2)
    with torch.no_grad():
        new_queries, new_keys = transform.apply_to_queries(queries), transform.apply_to_keys(keys)
    assert not torch.allclose(new_keys, keys)

    def scores(queries, keys):
        return queries @ keys.repeat_interleave(group, dim=1).mT  # query heads g * group ... read key head g

    torch.testing.assert_close(scores(new_queries, new_keys), scores(queries, keys), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("heads", "group", "head_dim"), [(2, 3, 4), (3, 1, 6), (1, 2, 3)])
def test_grouped_is_laid_out_by_query_head(heads, group, head_dim):
    transform = HeadAffine(normal(heads, head_dim, head_dim))
    factors = transform.factors.detach()
    matrix = torch.block_diag(*(factors[head // group] for head in range(heads * group)))
    x, weight = normal(5, len(matrix), seed=1), normal(4, len(matrix), seed=2)
    with torch.no_grad():
        applied, folded = transform.apply_grouped(x), transform.fold_grouped(weight)
    torch.testing.assert_close(applied, x @ matrix)
    torch.testing.assert_close(applied @ folded.T, x @ weight.T, rtol=1e-9, atol=1e-9)


def test_applied_to_channels_and_to_heads_alike():
    transform = HeadAffine(normal(2, 3, 3))
    keys = normal(1, 2, 5, 3, seed=1)  # [batch, heads, tokens, head_dim]
    with torch.no_grad():
        by_head = transform.apply_to_keys(keys).transpose(1, 2).flatten(2)
        torch.testing.assert_close(transform.apply_to(keys.transpose(1, 2).flatten(2)), by_head)


def test_mixing_leaves_the_channels_within_a_head():
    mixing = HeadMixing(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), 6)
    x = torch.arange(6.0)  # heads (0, 1, 2) and (3, 4, 5)
    assert mixing.apply_to(x).tolist() == [3, 4, 5, 0, 2, 4]
