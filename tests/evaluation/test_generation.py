"""Text by transformers' generate on packed checkpoints: what chooses its tokens, and where it ends."""

import math

import pytest
import torch
from models_for_tests import VOCAB, Workspace
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from altq.checkpoint.packed_model import load_packed_model
from altq.checkpoint.quantized_model import load_model
from altq.evaluation.generation import RefuseNotFinite, Sampling, generate_text, load_generator
from altq.experiment.rounding import RoundingOptions
from altq.experiment.setting import Setting
from altq.runtime.files import write_json

WORDS = {f"w{index}": index for index in range(VOCAB)}
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace("mistral", tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module")
def checkpoint(workspace):
    rounding = RoundingOptions(weights="rtn", windows=4)
    return workspace.checkpoint(Setting(4, 4, 4, 4), ["affine", "rotation", "balance", "identity"], rounding)


@pytest.fixture
def say(capsys):
    """The words that a model makes of a prompt, and the speed."""
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)

    def words(model, sampling=GREEDY, count=12, *, seed=0):
        capsys.readouterr()
        torch.manual_seed(seed)
        speed = generate_text(model, tokenizer, [3, 7], count, sampling)
        return capsys.readouterr().out.split(), speed

    return words


def test_the_likeliest_token_is_that_of_the_whole_window(workspace, say):
    model = load_generator(workspace.model)  # in full precision no code lies on a border that a sum moves it over
    model.generation_config.eos_token_id = None
    found, speed = say(model, count=5)
    tokens = [int(word.removeprefix("w")) for word in found]
    with torch.no_grad():
        for place in range(2, len(tokens)):
            assert model(torch.tensor([tokens[:place]]), use_cache=False).logits[0, -1].argmax() == tokens[place]
    assert len(tokens) == 7 and (speed.prompt_tokens, speed.decoded_tokens) == (2, 4)
    assert speed.prompt_seconds > 0 and speed.decode_seconds > 0


def test_text_is_drawn_by_the_seed(checkpoint, say):
    model, sampling = load_generator(checkpoint), Sampling(temperature=2.0)
    model.generation_config.eos_token_id = None
    drawn = [say(model, sampling, seed=seed)[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    likeliest = say(model)[0]
    for narrow in (Sampling(temperature=2.0, top_k=1), Sampling(top_p=1e-6)):
        assert say(model, narrow, seed=1)[0] == likeliest


def test_without_flags_tokens_are_chosen_as_the_folder_says(checkpoint, say):
    plain = say(load_generator(checkpoint))[0]
    assert plain == say(load_generator(checkpoint), GREEDY)[0]
    last = int(plain[5].removeprefix("w"))
    path = checkpoint / "generation_config.json"
    before = path.read_text()
    try:
        write_json(path, {"do_sample": True, "temperature": 5.0, "top_k": 0, "eos_token_id": [last]})
        model = load_generator(checkpoint)
        assert say(model, Sampling(), seed=1)[0] != say(model, Sampling(), seed=2)[0]
        assert say(model)[0] == plain[: plain.index(plain[5]) + 1], (
            "the end token stands in generation_config.json alone"
        )
    finally:
        path.write_text(before)


@pytest.mark.parametrize("content", ["{", "[]", '{"early_stopping": "perhaps"}', '{"max_new_tokens": -1}'])
def test_damaged_options_of_a_folder_are_refused_with_the_remedy(checkpoint, content):
    path = checkpoint / "generation_config.json"
    before = path.read_text()
    try:
        path.write_text(content)
        with pytest.raises(ValueError, match=r"generation_config.json.*; correct it, or remove it"):
            load_generator(checkpoint)
    finally:
        path.write_text(before)


def test_all_tokens_are_drawn_among_unless_somebody_limits_them():
    own = GenerationConfig()
    assert Sampling(temperature=0.7).options(own) == {"do_sample": True, "temperature": 0.7, "top_k": 0}
    assert Sampling(top_p=0.9).options(own) == {"do_sample": True, "top_p": 0.9, "top_k": 0}
    assert Sampling(temperature=0.7).options(GenerationConfig(top_k=20))["top_k"] == 20
    assert Sampling().options(own) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "must not be negative"),
        ({"temperature": math.nan}, "must not be negative"),
        ({"top_k": 0}, "leaves no token"),
        ({"top_p": 0.0}, "no probability above 0"),
        ({"top_p": math.nan}, "no probability above 0"),
        ({"temperature": 0.0, "top_k": 3}, "leave top-k and top-p out"),
        ({"temperature": 0.0, "top_p": 0.3}, "leave top-k and top-p out"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_a_prompt_has_tokens(checkpoint):
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        generate_text(load_generator(checkpoint), None, [], 3, GREEDY)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_text(value):
    scores = torch.tensor([[0.0, 1.0, -math.inf]])
    assert torch.equal(RefuseNotFinite()(None, scores), scores)
    for wrong in (torch.tensor([[0.0, value]]), torch.full((1, 2), -math.inf)):
        with pytest.raises(ValueError, match="not finite"):
            RefuseNotFinite()(None, wrong)


def test_a_model_that_overflows_says_so(checkpoint, say):
    model = load_generator(checkpoint)
    with torch.no_grad():
        model.get_output_embeddings().weight[5, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        say(model)


@pytest.mark.parametrize(
    ("text", "zero_point", "problem"),
    [
        ("W2A16g8", False, "activations of 16 bits"),
        ("W4A4K4V4g8", False, "weights in groups of 8 channels"),
        ("W4A4K4V4", True, "weights with zero points"),
        ("W5A4K4V4", False, "weights of 5 bits"),
    ],
)
def test_text_of_what_the_kernels_do_not_know_comes_from_torch_and_a_line_says_so(
    workspace, say, caplog, text, zero_point, problem
):
    rounding = RoundingOptions(weights="rtn", windows=4)
    folder = workspace.checkpoint(
        Setting.parse(text), ["affine"] * 4, rounding, folder=f"torch-{text}{zero_point}", zero_point=zero_point
    )
    words = say(load_generator(folder))[0]
    assert f"the CPU kernels do not know {problem}" in caplog.text
    assert words == say(load_model(folder))[0] and len(words) == 14
    with pytest.raises(ValueError, match=r"packed products|kernels know"):
        load_packed_model(folder)
