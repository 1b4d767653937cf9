"""Models side by side: a row for each, with what is paired."""

import json

import pytest

from altq.evaluation.before_after import Measured, side_by_side, weight_bytes

FULL = Measured("model", 2_500_000, [100.0, 130.0, 90.0, 120.0], 51)
QUANTIZED = Measured("W4A4K4V4", 400_000, [105.0, 136.0, 95.0, 127.0], 51)


def test_a_row_for_each_model():
    head, reference, row = side_by_side(FULL, [QUANTIZED]).splitlines()
    assert head.split() == ["weights", "perplexity", "over", "model"]
    assert reference.startswith("model     2.5 MB   9.03 (") and reference.count(" to ") == 1
    assert row.startswith("W4A4K4V4  0.4 MB   10.12 (") and "  1.122 (1.1" in row and row.count(" to ") == 2


def test_results_are_read_as_perplexity_writes_them(tmp_path):
    path = tmp_path / "wiki.json"
    path.write_text(json.dumps({"corpus": "wiki", "nll": [100.0, 130.0, 90.0, 120.0], "window_length": 51}))
    assert Measured.read("model", 2_500_000, path) == FULL
    path.write_text(json.dumps({"corpus": "wiki", "nll": [100.0], "window_length": 51}))
    with pytest.raises(ValueError, match=r"wiki.json is not a perplexity result.*evaluate again"):
        Measured.read("model", 1, path)


def test_weights_are_those_of_all_files(tmp_path):
    for name, size in (("a.safetensors", 3), ("b.safetensors", 4), ("tokenizer.json", 50)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert weight_bytes(tmp_path) == 7
