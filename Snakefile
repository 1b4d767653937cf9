# The workflow of config.yaml: from the sources of models and corpora to the tables, under results/.
# This file validates the configuration, includes the stages and names the targets; everything else is in rules/.

import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


# The first page of `snakemake --report`.
report: "rules/captions/workflow.rst"


from altq.runtime.code_hash import code_hash
from altq.commands.command import source_flags
from altq.experiment.experiment import Experiment
from altq.experiment.baselines import END_TO_END
from altq.experiment.setting import FULL
from altq.experiment.methods import (
    BANKS,
    MEASURED_POLICIES,
    METHODS,
    NUMBERED_METHODS,
    PROBE,
    method_of,
    method_of_policy,
)
from altq.runtime.flags import to_flags
from altq.runtime.documents import read_yaml
from altq.report import protocol
from altq.report.presentation import HEADINGS
from altq.resources.needs import Needs
from altq.experiment.kinds import KINDS
from altq.experiment.setting import FULL_PRECISION
from altq.selection.selection import read_distinct
from altq.experiment.tasks import TASKS

# Snakemake would merge a --configfile into this one; an experiment is one file.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config.yaml"


try:
    # Snakemake has read them already, and of a key that is given twice kept the last.
    for file in workflow.overwrite_configfiles or [f"{workflow.basedir}/config.yaml"]:
        read_yaml(file)
    EXPERIMENT = Experiment.parse(config)
except ValueError as error:
    raise WorkflowError(str(error)) from None

# Memory, minutes, disk and threads of every job, from the shapes of the models. A profile that says how many GPUs there
# are (`resources: [gpu=8]`) lets jobs ask for one.
NEEDS = Needs(EXPERIMENT, ".", gpus=workflow.global_resources.get("gpu").value or 0)
if NEEDS.guessed:
    print(
        f"altq: the shape of {', '.join(NEEDS.guessed)} is guessed from num_blocks until it is fetched, and with it the "
        "memory and time of jobs; give `shape:` in the configuration to have them right",
        file=sys.stderr,
    )

for name, (length, context) in NEEDS.beyond_context.items():
    print(
        f"altq: warning: windows of {length} tokens are longer than the {context} that {name} was made for "
        "(max_position_embeddings); lower window_length of `calibration` and `evaluation`",
        file=sys.stderr,
    )

# Snakemake replaces {name} in commands and paths: braces in the path of this checkout are doubled.
CHECKOUT = str(workflow.basedir).replace("{", "{{").replace("}", "}}")
ENVS = f"{CHECKOUT}/envs"

# Jobs run this checkout of altq (PYTHONPATH) in the environment of this Snakemake (PATH), or in that of --sdm conda.
# glibc keeps what the operations of a small model let go of, which is 5 to 10 % of a job's time, and gives back tensors
# of more than 16 MB, which would pile up in a large one.
# No Python that is started here or by a job looks for modules in the folder that it runs in: results lie there.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]), PYTHONSAFEPATH="1")
shell.prefix(
    f"export PYTHONSAFEPATH=1 PYTHONPATH={shlex.quote(CHECKOUT)} "
    "MALLOC_MMAP_THRESHOLD_=16777216 MALLOC_TRIM_THRESHOLD_=268435456; "
)


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    corpus="|".join(map(re.escape, EXPERIMENT.corpora)),
    task="|".join(EXPERIMENT.tasks or TASKS),
    policy=r"[a-z_]+\d*",
    number=r"\d+",
    method="|".join([*METHODS, *(rf"{family}\d+" for family in NUMBERED_METHODS)]),
    setting=r"W\d+A\d+K\d+V\d+",
    weights="gptq|rtn",
    seed=r"\d+",


# Done in a second, where Snakemake itself runs.
localrules:
    all,
    study,
    select,
    select_by_scores,
    select_best_random,
    distinct,


# The experiment: Table 2 and what it cost.
rule all:
    default_target: True
    input:
        "results/table2.csv",
        "results/cost.csv" if EXPERIMENT.methods != [FULL] else [],


# How selections compare, which takes hours: Tables 1, 4, 6 and 7, Figures 1 and 2.
rule study:
    input:
        expand("results/table{number}.csv", number=[1, 4, 6, 7]),
        "results/figure1.pdf",
        "results/figure2.pdf" if {"affine", "rotation"} <= set(EXPERIMENT.selection.candidates) else [],


include: "rules/common.smk"
include: "rules/fetch.smk"
include: "rules/calibration.smk"
include: "rules/selection.smk"
include: "rules/assembly.smk"
include: "rules/evaluation.smk"
include: "rules/kernels.smk"
include: "rules/tables.smk"
