import logging

import pytest

from altq.models.context import check_context
from altq.runtime.files import write_json


@pytest.mark.parametrize(("length", "warned"), [(63, False), (64, False), (65, True)])
def test_longer_windows_than_the_model_was_made_for_are_said(tmp_path, caplog, length, warned):
    write_json(tmp_path / "config.json", {"max_position_embeddings": 64})
    with caplog.at_level(logging.WARNING, logger="altq"):
        assert check_context(tmp_path, length) == 64
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warned
    assert all(f"windows of {length} tokens are longer than the 64" in line and "at most 64" in line for line in said)


def test_nothing_is_said_of_a_model_whose_configuration_says_nothing(tmp_path, caplog):
    write_json(tmp_path / "config.json", {})
    assert check_context(tmp_path, 10**6) is None and not caplog.records
