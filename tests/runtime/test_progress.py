"""Bars are lines in a log."""

import io

from altq.runtime.progress import LinesFromBars


def written(*texts):
    stream = io.StringIO()
    lines = LinesFromBars(stream)
    for text in texts:
        lines.write(text)
    return stream.getvalue()


def test_each_update_is_a_line():
    assert written("\rbank:   0%| | 0/2", "\rbank: 100%|█| 2/2", "\n") == "bank:   0%| | 0/2\nbank: 100%|█| 2/2\n"


def test_what_is_no_bar_stays():
    assert written("a", "\n", "b\n", "\n") == "a\nb\n\n"


def test_a_message_between_two_updates():
    assert written("\rbar 1", "restarted\n", "\rbar 2", "\r   \r", "end\n") == "bar 1\nrestarted\nbar 2\nend\n"


def test_a_bar_of_tqdm(run_python, project):
    code = (
        "import sys; from altq.runtime.progress import LinesFromBars; sys.stderr = LinesFromBars(sys.stderr)\n"
        "from tqdm import tqdm\n"
        "for _ in tqdm(range(1000), desc='bank'): pass\n"
    )
    lines = run_python("-c", code, folder=project).stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("bank: ") for line in lines) and "1000/1000" in lines[1]


def test_messages_are_lines_between(run_python, project):
    code = (
        "import logging, altq.cli as cli; from altq.commands import results; from altq.runtime.progress import progress\n"
        "def run(arguments):\n"
        "    for i in progress(range(2), 'calibrating'): logging.getLogger('altq.calibration').info('block %d', i)\n"
        "    logging.getLogger('altq').warning('restarted')\n"
        "results.show = run; cli.main(['show'])\n"
    )
    lines = run_python("-c", code, folder=project).stderr.splitlines()
    assert [line for line in lines if "|" not in line] == ["block 0", "block 1", "altq: warning: restarted"]
    assert "2/2" in lines[-2]
