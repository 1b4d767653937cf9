"""The file of weight statistics is complete and in order, or refused by name."""

import copy
import json

import pytest

from altq.selection.description import read_statistics

PROJECTION = {
    "excess_kurtosis": 0.5, "count": 9, "mean": 0.0, "m2": 9.0, "m3": 0.1, "m4": 31.0, "minimum": -2.0, "maximum": 2.0
}  # fmt: skip
STATISTICS = {
    "model": "m", "num_blocks": 2,
    "sublayers": [
        {"block": block, "half": half, "selected_site": "in", "sites": {"in": {"a": PROJECTION}}}
        for block in range(2) for half in ("attention", "ffn")
    ],
}  # fmt: skip


def test_it_reads_back_whole(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(STATISTICS | {"provenance": {"seconds": 1}}))
    assert read_statistics(tmp_path / "m.json") == STATISTICS | {"provenance": {"seconds": 1}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(num_blocks=3), "it has 4 sublayers, but a model of 3 blocks has twice as many"),
        (lambda c: c["sublayers"].reverse(), "not the attention and the ffn of each block, in order"),
        (lambda c: c["sublayers"][1]["sites"].clear(), "its selected site 'in' has no projection"),
        (lambda c: c["sublayers"][1]["sites"]["in"]["a"].pop("m2"), "sublayers.1.sites.in.a.m2: Field required"),
        (lambda c: c["sublayers"][0]["sites"]["in"]["a"].update(m4=float("nan")), "sublayers.0.sites.in.a.m4: "),
        (lambda c: c["sublayers"][0]["sites"]["in"]["a"].update(count=0), "sublayers.0.sites.in.a.count: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, said):
    content = copy.deepcopy(STATISTICS)
    change(content)
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as refused:
        read_statistics(tmp_path / "m.json")
    message = str(refused.value)
    assert message.startswith(f"{tmp_path}/m.json: ") and said in message and "`altq statistics` again" in message
