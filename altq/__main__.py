"""`python -P -m altq` and `altq`: heeds Ctrl-C before anything is imported, and imports nothing from the folder it runs in."""

import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Run the command line; 130 with a message, never a traceback, where SIGINT comes before that heeds it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    # Of Python that is started from here, such as pip: the folder that it runs in is no place for modules.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        from altq.cli import main as run

        return run()
    finally:
        # All is done, and the status is known: there is nothing left to stop while Python puts itself away.
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(*_: object) -> None:
    # An exception would be another error, or lost, in the middle of some import; there is nothing yet to put in order.
    os.write(2, b"altq: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    # Python without -P puts the current folder first: a numpy.py among results would be run.
    if not sys.flags.safe_path and sys.path[0] != str(Path(__file__).parents[1]):
        del sys.path[0]
    sys.exit(main())
