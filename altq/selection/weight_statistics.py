"""Weight statistics of every projection of a model, streamed from its safetensors."""

from pathlib import Path
from typing import Any

import torch

from altq.models.family import Half
from altq.models.weights import ModelWeights
from altq.selection.kurtosis import Moments, merge_all

CHUNK_ELEMENTS = 1 << 20  # 8 MB in float64, so that a chunk and its squares stay in the cache


def tensor_moments(weights: ModelWeights, name: str) -> Moments:
    """Moments of one stored tensor, of which at most a chunk is in memory; ValueError if a value is not finite."""
    chunks = weights.chunks(name, CHUNK_ELEMENTS)
    return merge_all([Moments.of(chunk.to(torch.float64).numpy(), name) for chunk in chunks])


def weight_statistics(model_folder: str | Path) -> dict[str, Any]:
    """Statistics of every projection of every block, for results/statistics/<model>.json.

    Returns {"model", "num_blocks", "sublayers": [{"sublayer", "block", "half", "selected_site",
    "sites": {site: {projection: {"shape", "excess_kurtosis", "std", "max_abs", and the moments}}}}]}. The moments
    are stored so that projections can be taken together without reading the weights again. ValueError for constant or
    non-finite weights, naming the tensor. Source: Eq. 8.
    """
    weights = ModelWeights(model_folder)
    sublayers: list[dict[str, Any]] = []
    for block in range(weights.num_blocks):
        for half_name in ("attention", "ffn"):
            half = weights.family.half(half_name)
            sublayers.append(
                {
                    "sublayer": len(sublayers),
                    "block": block,
                    "half": half_name,
                    "selected_site": half.selected_site,
                    "sites": _sites(weights, block, half),
                }
            )
    return {"model": weights.folder.name, "num_blocks": weights.num_blocks, "sublayers": sublayers}


def _sites(weights: ModelWeights, block: int, half: Half) -> dict[str, dict[str, Any]]:
    prefix = weights.block_prefix(block)
    return {
        site: {projection: _projection(weights, f"{prefix}{projection}.weight") for projection in projections}
        for site, projections in half.input_sites.items()
    }


def _projection(weights: ModelWeights, name: str) -> dict[str, Any]:
    moments = tensor_moments(weights, name)
    return {
        "shape": list(weights.shape(name)),
        "excess_kurtosis": moments.excess_kurtosis(name),
        "std": moments.std,
        "max_abs": moments.max_abs,
        **moments.to_json(),
    }
