"""A checkpoint is complete in its folder, and says nothing of where its model was."""

from altq.checkpoint.format import finish_checkpoint
from altq.runtime.files import read_json, write_json

DESCRIPTION = {"method": "rtn", "setting": "W4A4K4V4", "blocks": []}


def test_where_a_model_was_is_not_handed_on(tmp_path):
    model, folder = tmp_path / "model", tmp_path / "checkpoint"
    model.mkdir()
    folder.mkdir()
    write_json(model / "config.json", {"model_type": "llama", "_name_or_path": "/home/somebody/llama"})
    write_json(model / "tokenizer_config.json", {"model_max_length": 8, "name_or_path": "/home/somebody/llama"})
    finish_checkpoint(folder, model, {}, read_json(model / "config.json"), DESCRIPTION)
    quantization = {"quant_method": "altq", "setting": "W4A4K4V4", "blocks": []}
    assert read_json(folder / "config.json") == {"model_type": "llama", "quantization_config": quantization}
    assert read_json(folder / "quantization.json") == {"method": "rtn", "setting": "W4A4K4V4"}
    assert read_json(folder / "tokenizer_config.json") == {"model_max_length": 8}


def test_a_tokenizer_that_says_nothing_of_its_place_is_copied_byte_for_byte(tmp_path):
    model, folder = tmp_path / "model", tmp_path / "checkpoint"
    model.mkdir()
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text('{"a":   1}')
    finish_checkpoint(folder, model, {}, {}, DESCRIPTION)
    assert all((folder / name).read_text() == '{"a":   1}' for name in ("tokenizer.json", "tokenizer_config.json"))
