# What the rules share: the places of results, the shell line of a stage, its log, its environment.

CHECKPOINT = "{model}/{method}/{setting}/{weights}/seed{seed}"
BANK = "{model}/{setting}/seed{seed}/{bank}"
SCORES = "{model}/{setting}/seed{seed}/{policy}"

QUANTIZE = f"{ENVS}/quantize.yaml"
REPORT = f"{ENVS}/report.yaml"
"""The environments of numeric stages, and of tables and figures."""


def log_of(place):
    """The messages of a job."""
    return f"results/logs/{place}.log"


def benchmark_of(place):
    """The time and memory of a job."""
    return f"results/benchmarks/{place}.tsv"


def altq(command, flags, threads="{threads}"):
    """The shell line of a stage; its messages go to the terminal and to its log.

    -P: modules come from this checkout and its environment, never from the folder that the workflow runs in.
    """
    return f"python3 -P -m altq {command} --threads {threads} {flags} 2> >(tee {{log}} >&2)"


def verbatim(value):
    """A parameter in which braces are the user's own words, no wildcards."""
    return lambda wildcards: value


def flags_of(files):
    """Named input files as flags of their names."""
    return " ".join(f"--{name.replace('_', '-')} {paths}" for name, paths in files.items())
