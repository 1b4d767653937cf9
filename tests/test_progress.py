"""Bars are lines in a log."""

import io

from altq.progress import LinesFromBars


def written(*texts):
    stream = io.StringIO()
    lines = LinesFromBars(stream)
    for text in texts:
        lines.write(text)
    return stream.getvalue()


def test_each_update_is_a_line():
    assert written("\rstates:   0%|   | 0/2", "\rstates: 100%|██ | 2/2", "\n") == "states:   0%|   | 0/2\nstates: 100%|██ | 2/2\n"


def test_what_is_no_bar_stays():
    assert written("a", "\n", "b\n", "\n") == "a\nb\n\n"


def test_a_message_between_two_updates():
    assert written("\rbar 1", "restarted\n", "\rbar 2", "\r   \r", "end\n") == "bar 1\nrestarted\nbar 2\nend\n"


def test_a_bar_of_tqdm(run_python, project):
    code = (
        "import sys; from altq.progress import LinesFromBars; sys.stderr = LinesFromBars(sys.stderr)\n"
        "from tqdm import tqdm\n"
        "for _ in tqdm(range(1000), desc='bank'): pass\n"
    )
    lines = run_python("-c", code, folder=project).stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("bank: ") for line in lines) and "1000/1000" in lines[1]
