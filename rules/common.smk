# What several files of rules use: where results lie, the environment of stages, their shell line and its flags.


pathvars:
    logs="results/logs",
    benchmarks="results/benchmarks",


# No path variables: in their wildcards Snakemake would overlook the constraints.
BANK = "{model}/{setting}/seed{seed}/{bank}"
SCORES = "{model}/{setting}/seed{seed}/{policy}"
CHECKPOINT = "{model}/{method}/{setting}/{weights}/seed{seed}"

# Snakemake replaces {name} in commands and paths: braces in the path of this checkout are doubled.
CHECKOUT = str(workflow.basedir).replace("{", "{{").replace("}", "}}")

QUANTIZE = f"{CHECKOUT}/envs/quantize.yaml"
REPORT = f"{CHECKOUT}/envs/report.yaml"
"""The environments of numeric stages, and of tables and figures."""

# Jobs run this checkout of altq (PYTHONPATH) in the environment of this Snakemake (PATH), or in that of --sdm conda.
# glibc keeps what the operations of a small model let go of, which is 5 to 10 % of a job's time, and gives back tensors
# of more than 16 MB, which would pile up in a large one.
# No Python that is started here or by a job looks for modules in the folder that it runs in: results lie there.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]), PYTHONSAFEPATH="1")
shell.prefix(
    f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(CHECKOUT)} "
    "MALLOC_MMAP_THRESHOLD_=16777216 MALLOC_TRIM_THRESHOLD_=268435456; "
)

ON_STATES = (
    "--model $(dirname {input.model}) --states $(dirname {input.states}) "
    "--setting {wildcards.setting} --seed {wildcards.seed}"
)
"""The flags of stages that fit or measure at a setting, against the full-precision model's states."""

CANDIDATES = f"--candidates {' '.join(EXPERIMENT.selection.candidates)}"


def altq(command, *flags, threads="{threads}"):
    """The shell line of a stage; its messages go to the terminal and to its log.

    One that computes on a device is told which: the GPU that the job asks for, or the CPU. -P: modules come from this
    checkout and its environment, never from the folder that the workflow runs in.
    """
    device = ["--device {resources.device}"] if command in ON_A_DEVICE else []
    return f"python3 -P -m altq {command} --threads {threads} {' '.join([*device, *flags])} 2> >(tee {{log}} >&2)"


def verbatim(value):
    """A parameter in which braces are the user's own words, no wildcards."""
    return lambda wildcards: value


def flags_of(files):
    """Named input files as flags of their names."""
    return " ".join(f"--{name.replace('_', '-')} {paths}" for name, paths in files.items())


def recipe_flags(wildcards):
    """How a bank is fitted."""
    return to_flags(EXPERIMENT.recipe_of(wildcards.bank))


def is_heuristic(policy):
    return policy == "heuristic" or policy in EXPERIMENT.grid.named


def policy_flags(wildcards):
    """How a policy that measures nothing at a setting chooses."""
    policy = wildcards.policy
    if is_heuristic(policy):
        return f"--policy heuristic {to_flags(EXPERIMENT.grid.named.get(policy, EXPERIMENT.selection.heuristic))}"
    blocks = f"--model-name {wildcards.model} --num-blocks {EXPERIMENT.models[wildcards.model].num_blocks}"
    if policy in KINDS:
        return f"--policy {policy} {blocks}"
    return f"--policy random --seed {policy.removeprefix('random')} {CANDIDATES} {blocks}"


def selection_of(wildcards):
    """The selection file of a method; what was measured lies below its setting and seed."""
    policy = method_of(wildcards.method).policy
    place = "{model}/{setting}/seed{seed}" if policy in MEASURED_POLICIES else "{model}"
    return f"results/selections/{place}/{policy}.json"
