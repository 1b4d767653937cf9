# The workflow of config.yaml: from the sources of models and corpora to the tables, under results/.
# This file validates the configuration, includes the stages and names the targets; everything else is in rules/.

import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27.1")


# The first page of `snakemake --report`.
report: "rules/captions/workflow.rst"


from altq.cli import ON_A_DEVICE
from altq.commands.command import source_flags
from altq.experiment.baselines import END_TO_END
from altq.experiment.experiment import Experiment
from altq.experiment.kinds import KINDS
from altq.experiment.methods import BANKS, MEASURED_POLICIES, METHODS, NUMBERED_METHODS, PROBE, REFINED
from altq.experiment.methods import method_of, method_of_policy
from altq.experiment.setting import FULL, FULL_PRECISION
from altq.experiment.tasks import TASKS
from altq.report import protocol
from altq.report.presentation import HEADINGS
from altq.resources.needs import Needs
from altq.runtime.code_hash import code_hash
from altq.runtime.documents import read_yaml
from altq.runtime.flags import to_flags
from altq.selection.selection import read_distinct

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
for warning in NEEDS.warnings:
    print(f"altq: {warning}", file=sys.stderr)

UNREFINED = "|".join([*METHODS, *(rf"{family}\d+" for family in NUMBERED_METHODS)])


wildcard_constraints:
    model="|".join(map(re.escape, EXPERIMENT.models)),
    corpus="|".join(map(re.escape, EXPERIMENT.corpora)),
    task="|".join(EXPERIMENT.tasks or TASKS),
    policy=r"[a-z_]+\d*",
    number=r"\d+",
    method=f"(?:{UNREFINED})(?:{REFINED})?",
    setting=r"W\d+A\d+K\d+V\d+(g\d+)?",
    weights="gptq|rtn",
    seed=r"\d+",


# The experiment: Table 2 and what it cost.
rule all:
    default_target: True
    input:
        "results/table2.csv",
        "results/cost.csv" if EXPERIMENT.methods != [FULL] else [],
    localrule: True


# How selections compare, which takes hours: Tables 1, 4, 6 and 7, Figures 1 and 2.
rule study:
    input:
        expand("results/table{number}.csv", number=[1, 4, 6, 7]),
        "results/figure1.pdf",
        "results/figure2.pdf" if {"affine", "rotation"} <= set(EXPERIMENT.selection.candidates) else [],
    localrule: True


# Every checkpoint with its card, which has its perplexity before and after: what `altq quantize` makes.
rule cards:
    input:
        lambda wildcards: expand(
            rules.card.output,
            model=EXPERIMENT.models,
            method=[method for method in EXPERIMENT.methods if method != FULL],
            setting=EXPERIMENT.settings,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds,
        ),
    localrule: True


include: "rules/common.smk"
include: "rules/results.smk"
include: "rules/fetch.smk"
include: "rules/calibration.smk"
include: "rules/selection.smk"
include: "rules/assembly.smk"


if EXPERIMENT.refinement:

    include: "rules/refinement.smk"


include: "rules/evaluation.smk"
include: "rules/kernels.smk"
include: "rules/tables.smk"
