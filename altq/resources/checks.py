"""A check of what a run needs, and a table of them.

The doctor makes them: of the machine and an experiment in doctor.py, of GPUs in gpu_checks.py.
"""

from dataclasses import dataclass

OK, NOTE, MISSING = "ok", "note", "missing"


@dataclass(frozen=True)
class Check:
    """Outcome of a check.

    state: ok, note (works, but worth knowing) or missing (required). remedy: the command that mends it, or "".
    """

    name: str
    state: str
    finding: str
    remedy: str = ""


def to_text(checks: list[Check]) -> str:
    """The checks as a table, each remedy on a line of its own."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.name.ljust(width)}  {check.state.ljust(7)}  {check.finding}")
        if check.remedy:
            lines.append(f"{' ' * width}           -> {check.remedy}")
    return "\n".join(lines) + "\n"
