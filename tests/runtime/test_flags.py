"""Options go to flags and back without loss, for every slice of the configuration that a command takes."""

import argparse
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altq.experiment.policies import AttentionOptions, FfnOptions, HeuristicOptions
from altq.experiment.recipe import Recipe
from altq.experiment.rounding import RoundingOptions
from altq.report.presentation import Entry, Presentation
from altq.runtime.flags import add_options, read_options, to_flags

positive = st.integers(1, 1000)
share = st.floats(0, 1)
beta = st.floats(0, 1, exclude_max=True)
recipes = st.builds(
    Recipe,
    start=st.sampled_from(["balance", "hadamard", "random", "cayley"]),
    structure=st.sampled_from(["kronecker", "full"]),
    scaling=st.sampled_from(["none", "ones", "balance", "smooth"]),
    clip_search=st.booleans(),
    search_windows=positive,
    fitted=st.lists(st.sampled_from(["attention", "ffn"])),
    betas=st.tuples(beta, beta),
    steps=st.integers(0, 1000),
    windows_per_step=positive,
    learning_rate=st.floats(1e-9, 1),
    clip_rate_factor=st.floats(1e-9, 100),
    weight_decay=st.floats(0, 1),
)
roundings = st.builds(
    RoundingOptions,
    weights=st.sampled_from(["gptq", "rtn"]),
    block_size=positive,
    damping=st.floats(1e-9, 1),
    act_order=st.booleans(),
)
heuristics = st.builds(
    HeuristicOptions,
    attention=st.builds(AttentionOptions, count=positive, beta=share),
    ffn=st.builds(FfnOptions, share=share, beta=share, score=st.sampled_from(["concat", "sum"])),
)
names = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=2)
texts = st.text(max_size=30)
presentations = st.builds(
    Presentation, protocol=st.lists(st.builds(Entry, texts, texts, texts), max_size=3).map(tuple), labels=names
)


def parse(flags, options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, options)
    return read_options(parser.parse_args(shlex.split(flags)), options)


@given(st.one_of(recipes, roundings, heuristics, presentations))
def test_flags_read_back(options):
    assert parse(to_flags(options), type(options)) == options


@pytest.mark.parametrize("options", [Recipe, RoundingOptions, HeuristicOptions, Presentation])
def test_no_flag_is_the_default(options):
    assert parse("", options) == options()


def test_a_changed_default_is_seen_in_the_flags():
    assert to_flags(Recipe()) != to_flags(Recipe(steps=9))
    assert f"--learning-rate {Recipe().learning_rate}" in to_flags(Recipe())


def test_all_problems_in_one_message():
    with pytest.raises(ValueError, match=r"--steps: .*; --learning-rate: "):
        parse("--steps -1 --learning-rate 0", Recipe)


def test_help_has_every_flag_with_its_default():
    parser = argparse.ArgumentParser()
    add_options(parser, Recipe)
    text = " ".join(parser.format_help().split())
    for name, field in Recipe.model_fields.items():
        assert f"--{name.replace('_', '-')} VALUE" in text
        assert field.description in text
    assert "(default: balance)" in text and "(default: 8)" in text
