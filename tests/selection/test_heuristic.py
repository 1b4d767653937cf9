import math
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from altq.experiment.policies import AttentionOptions, FfnOptions, HeuristicOptions
from altq.selection.heuristic import find_tails, heuristic_selection, num_rotations, share_of, upper_share
from altq.selection.kurtosis import Moments


def entry(values):
    moments = Moments.of(np.asarray(values, dtype=float), "w")
    return {**moments.to_json(), "excess_kurtosis": moments.excess_kurtosis("w")}


def statistics_of(num_blocks, seed=0):
    generator = np.random.default_rng(seed)
    sites = {"attention": ("qkv", ["q", "k", "v"]), "ffn": ("gate_up", ["gate", "up"])}
    sublayers = [
        {
            "sublayer": sublayer,
            "block": sublayer // 2,
            "half": half,
            "selected_site": site,
            "sites": {site: {name: entry(generator.standard_t(6, size=200)) for name in names}, "other": {}},
        }
        for sublayer in range(2 * num_blocks)
        for half, (site, names) in [list(sites.items())[sublayer % 2]]
    ]
    return {"model": "made", "num_blocks": num_blocks, "sublayers": sublayers}


def test_hand_computed_tails():
    # median 3, deviations 2 1 0 1 7, MAD 1: z = (o - 3) / 1.4826
    tails = find_tails([1.0, 2.0, 3.0, 4.0, 10.0], AttentionOptions(beta=0.5), 3)
    assert (tails.median, tails.mad) == (3.0, 1.0)
    assert tails.z == pytest.approx([-2 / 1.4826, -1 / 1.4826, 0.0, 1 / 1.4826, 7 / 1.4826])
    # K_high = 1.5 rounded half up = 2, K_low = 1
    assert tails.high == (4, 3)
    assert tails.low == (0,)
    assert tails.tau_high == pytest.approx(1 / 1.4826)  # the second largest, not the third largest of Eq. 13 as printed
    assert tails.tau_low == pytest.approx(-2 / 1.4826)


def test_outlier_score_is_the_absolute_kurtosis():
    # |kurtosis| 5, 0.5, 1, 2: the platykurtic layer 0 is the upper tail
    tails = find_tails([-5.0, 0.5, 1.0, 2.0], FfnOptions(beta=1.0), 1)
    assert tails.outliers == (5.0, 0.5, 1.0, 2.0)
    assert tails.high == (0,)
    assert tails.low == ()
    assert tails.tau_low == -math.inf


def test_the_papers_counts_for_32_blocks():
    selection = heuristic_selection(statistics_of(32), HeuristicOptions())
    attention, ffn = selection.thresholds["attention"], selection.thresholds["ffn"]
    assert (attention["num_rotation"], attention["num_high"], attention["num_low"]) == (22, 2, 20)
    assert (ffn["num_rotation"], ffn["num_high"], ffn["num_low"]) == (16, 14, 2)
    assert selection.kinds[0::2].count("rotation") == 22
    assert selection.kinds[1::2].count("rotation") == 16
    assert selection.kinds.count("affine") == 64 - 38


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(0.7, 32, 22), (0.9, 15, 14), (0.5, 5, 3), (0.1, 5, 1), (0.1, 4, 0), (0.57, 50, 29), (0.0, 9, 0), (1.0, 9, 9)],
)
def test_rounding_is_half_up_in_decimal(share, count, expected):
    assert share_of(share, count) == expected


def test_ties_go_to_the_lower_layer():
    tails = find_tails([1.0, 5.0, 5.0, 5.0, 0.0, 0.0, 2.0, 3.0], FfnOptions(beta=0.5), 4)
    assert tails.high == (1, 2)
    assert tails.low == (4, 5)
    tails = find_tails([1.0, 5.0, 5.0, 5.0, 0.0, 0.0, 2.0, 3.0], FfnOptions(beta=0.5), 2)
    assert (tails.high, tails.low) == ((1,), (4,))


def test_all_scores_equal_fall_back_on_the_layer_index():
    tails = find_tails([2.0] * 6, AttentionOptions(beta=0.5), 4)
    assert tails.z == (0.0,) * 6
    assert (tails.high, tails.low) == ((0, 1), (2, 3))


def test_zero_mad_falls_back_on_rank_order():
    # five of seven equal: MAD 0 and every z 0, yet 9 and 7 are the upper tail by rank
    tails = find_tails([1.0, 9.0, 1.0, 1.0, 7.0, 1.0, 1.0], FfnOptions(beta=1.0), 2)
    assert (tails.mad, set(tails.z)) == (0.0, {0.0})
    assert tails.high == (1, 4)


def test_zero_mad_warns_and_says_so_in_the_reason():
    statistics = statistics_of(4)
    for sublayer in statistics["sublayers"]:
        sublayer["sites"] = statistics["sublayers"][sublayer["sublayer"] % 2]["sites"]
    with pytest.warns(UserWarning, match="'made': at least half of the (attention|ffn) layers"):
        selection = heuristic_selection(statistics, HeuristicOptions())
    assert "MAD = 0, so rank order decides: " in selection.decisions[0].reason
    assert selection.kinds[0::2] == ("rotation", "rotation", "rotation", "affine")  # round half up of 2.8
    assert selection.kinds[1::2] == ("rotation", "rotation", "affine", "affine")


def test_z_mass():
    z = np.array([3.0, 1.0, -2.0, -10.0, 0.0])  # 4 of 16
    assert upper_share(z, AttentionOptions(beta_rule="z_mass")) == 0.25
    assert upper_share(z, FfnOptions(beta_rule="z_mass")) == 0.7  # clipped (Eq. 12)
    assert upper_share(-z, AttentionOptions(beta_rule="z_mass")) == 0.3  # 12 of 16, clipped (Eq. 11)
    assert upper_share(-z, FfnOptions(beta_rule="z_mass")) == 0.75
    assert upper_share(np.zeros(4), FfnOptions(beta_rule="z_mass", beta=0.8)) == 0.8
    assert upper_share(z, AttentionOptions()) == 0.1


def test_scores_come_from_the_selected_site():
    statistics = statistics_of(3)
    q, k, v = (statistics["sublayers"][2]["sites"]["qkv"][name]["excess_kurtosis"] for name in "qkv")
    gate_up = statistics["sublayers"][3]["sites"]["gate_up"]
    selection = heuristic_selection(statistics, HeuristicOptions())
    assert selection.decisions[2].score == pytest.approx(q + k + v, rel=1e-14)
    together = Moments.from_json(gate_up["gate"]).merge(Moments.from_json(gate_up["up"])).excess_kurtosis("w")
    assert selection.decisions[3].score == together
    summed = heuristic_selection(statistics, HeuristicOptions(ffn=FfnOptions(score="sum")))
    assert summed.decisions[3].score == pytest.approx(sum(p["excess_kurtosis"] for p in gate_up.values()), rel=1e-14)
    assert summed.decisions[3].score != selection.decisions[3].score


def test_concatenation_differs_from_the_sum_by_hand():
    statistics = statistics_of(3)
    # narrow and wide two-point distributions: each has excess kurtosis -2; together m2 = (1 + 9)/2 = 5,
    # m4 = (1 + 81)/2 = 41, so 41/25 - 3 = -1.36
    statistics["sublayers"][1]["sites"]["gate_up"] = {"gate": entry([-1, 1]), "up": entry([-3, 3])}
    assert heuristic_selection(statistics, HeuristicOptions()).decisions[1].score == pytest.approx(-1.36)
    summed = heuristic_selection(statistics, HeuristicOptions(ffn=FfnOptions(score="sum")))
    assert summed.decisions[1].score == pytest.approx(-4.0)


def test_reasons_agree_with_the_kinds():
    selection = heuristic_selection(statistics_of(12), HeuristicOptions())
    for decision in selection.decisions:
        assert decision.reason.startswith(f"kurtosis {decision.score:.4g}")
        assert decision.reason.endswith(decision.kind)
        tau = selection.thresholds[decision.half]
        in_a_tail = decision.z >= tau["tau_high"] or decision.z <= tau["tau_low"]
        assert (decision.kind == "rotation") == in_a_tail


def test_a_count_beyond_the_layers_is_refused():
    options = HeuristicOptions(attention=AttentionOptions(count=5))
    with pytest.raises(ValueError, match=r"model 'made' has n = 4 .* L = 5"):
        heuristic_selection(statistics_of(4), options)


def test_none_rotated_has_no_thresholds():
    options = HeuristicOptions(attention=AttentionOptions(count=0), ffn=FfnOptions(share=0.0))
    selection = heuristic_selection(statistics_of(4), options)
    assert set(selection.kinds) == {"affine"}
    assert selection.thresholds["attention"]["tau_high"] is None
    assert selection.thresholds["ffn"]["tau_low"] is None


def test_non_finite_score_is_refused():
    with pytest.raises(ValueError, match="layer 1 is not finite"):
        find_tails([1.0, math.nan], AttentionOptions(), 1)


scores = st.lists(st.floats(-100, 100), min_size=1, max_size=40)


@given(scores=scores, share=st.floats(0, 1), beta=st.floats(0, 1), rule=st.sampled_from(["fixed", "z_mass"]))
def test_count_is_exact_and_tails_are_disjoint(scores, share, beta, rule):
    options = AttentionOptions(share=share, beta=beta, beta_rule=rule)
    num_rotation = num_rotations(options, len(scores), "m")
    tails = find_tails(scores, options, num_rotation)
    chosen = {*tails.high, *tails.low}
    assert len(tails.high) + len(tails.low) == len(chosen) == num_rotation
    assert all(tails.z[i] >= tails.tau_high for i in tails.high)
    assert all(tails.z[i] <= tails.tau_low for i in tails.low)
    assert all(tails.tau_low <= z <= tails.tau_high for i, z in enumerate(tails.z) if i not in chosen)


@given(scores=scores, seed=st.integers(0, 1000), share=st.floats(0, 1), beta=st.floats(0, 1))
def test_permuting_the_layers_permutes_the_tails(scores, seed, share, beta):
    assume(len({abs(score) for score in scores}) == len(scores))
    options = FfnOptions(share=share, beta=beta)
    num_rotation = num_rotations(options, len(scores), "m")
    order = np.random.default_rng(seed).permutation(len(scores))
    tails = find_tails(scores, options, num_rotation)
    permuted = find_tails([scores[i] for i in order], options, num_rotation)
    assert {order[i] for i in permuted.high} == set(tails.high)
    assert {order[i] for i in permuted.low} == set(tails.low)


def test_no_warning_in_the_ordinary_case():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heuristic_selection(statistics_of(8), HeuristicOptions())
