import pytest

from altq.experiment.tasks import TASKS, checked_task


def test_they_are_the_papers_in_its_order():
    labels = [task.label for task in TASKS.values()]
    assert labels == ["ARC-C", "ARC-E", "HellaSwag", "LAMBADA", "PIQA", "WinoGrande"]


@pytest.mark.parametrize(
    ("name", "near"), [("hella_swag", "hellaswag"), ("arc", "arc_easy or arc_challenge"), ("lambada", "lambada_openai")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, near):
    with pytest.raises(ValueError, match=rf"task '{name}' is not known; did you mean {near}"):
        checked_task(name)


def test_what_is_near_nothing_gets_the_list():
    with pytest.raises(ValueError, match=r"task 'xyzzy' is not known \(known: arc_challenge, "):
        checked_task("xyzzy")
