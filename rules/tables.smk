# Tables and figures, from the result files alone: Tables 2 and 3, the study of selections, the kernels, what it cost.

STUDY = EXPERIMENT.study
FIRST = EXPERIMENT.seeds[:1]
"""The seed of the study but for Table 7."""


def results_of_table(table, methods, seeds):
    """The results that a table of the study reads: perplexities, and accuracies where it asks for them."""
    of = (methods, EXPERIMENT.settings_of(table), seeds)
    return {"results": perplexities(*of), "zero_shot": accuracies(*of) if table.zero_shot else []}


def results_of_table3(wildcards):
    if not EXPERIMENT.tasks:
        raise WorkflowError("Table 3 needs `tasks` in the configuration; config.yaml has those of the paper")
    return accuracies(EXPERIMENT.zero_shot_methods, EXPERIMENT.settings_of(EXPERIMENT.zero_shot), EXPERIMENT.seeds)


def results_of_table6(wildcards):
    """The perplexities that Table 6 needs: of the learned selection, and once of each distinct point."""
    results = perplexities(["learned"], EXPERIMENT.settings_of(STUDY.table6), FIRST)
    for model in EXPERIMENT.models:
        first = read_distinct(checkpoints.distinct.get(model=model).output[0])
        needed = dict.fromkeys(method_of_policy(first[point]) for point in EXPERIMENT.grid.named)
        results += perplexities(needed, EXPERIMENT.settings_of(STUDY.table6), FIRST, model)
    return results


def selections(policies, settings=(), seeds=()):
    """Selection files of these policies."""
    measured = [policy for policy in policies if policy in MEASURED_POLICIES]
    others = [policy for policy in policies if policy not in MEASURED_POLICIES]
    models = EXPERIMENT.models
    return [
        *expand(rules.select_by_scores.output, model=models, setting=settings, seed=seeds, policy=measured),
        *expand(rules.select.output, model=models, policy=others),
    ]


# By table: the named inputs, which its command takes as flags.
INPUTS = {
    "table1": results_of_table(STUDY.table1, [FULL, "affine", "rotation", *EXPERIMENT.random_methods], FIRST),
    "table2": {"results": perplexities(EXPERIMENT.methods, EXPERIMENT.settings, EXPERIMENT.seeds)},
    "table3": {"results": results_of_table3},
    "table4": {
        **results_of_table(STUDY.table4, ["learned", "adaptive"], FIRST),
        "selections": selections(["learned", "heuristic"], EXPERIMENT.settings_of(STUDY.table4), FIRST),
    },
    "table5": {
        "results": [
            rules.benchmark_cpu.output.csv,
            *([rules.benchmark_gpu.output.csv] if EXPERIMENT.kernels.gpu else []),
        ]
    },
    "table6": {
        "results": results_of_table6,
        "selections": selections(["learned", *EXPERIMENT.grid.named], EXPERIMENT.settings_of(STUDY.table6), FIRST),
        "distinct": expand(rules.distinct.output, model=EXPERIMENT.models),
    },
    "table7": results_of_table(STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds),
}

# By table or figure: what its command is told besides.
OPTIONS = {
    "table1": to_flags(protocol.study(EXPERIMENT, STUDY.table1, ["affine", "rotation", "best_random"], FIRST)),
    "table2": to_flags(protocol.table2(EXPERIMENT)),
    "table3": f"--reference {EXPERIMENT.zero_shot.reference} {to_flags(protocol.table3(EXPERIMENT))}",
    "table4": to_flags(protocol.study(EXPERIMENT, STUDY.table4, ["learned", "adaptive"], FIRST)),
    "table5": "",
    "table6": to_flags(EXPERIMENT.grid)
    + " "
    + to_flags(protocol.study(EXPERIMENT, STUDY.table6, ["learned", "adaptive"], FIRST)),
    "table7": to_flags(protocol.study(EXPERIMENT, STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds)),
    "figure1": f"{to_flags(EXPERIMENT.selection.heuristic)} {to_flags(protocol.banks(EXPERIMENT, ['learned'], FIRST))}",
    "figure2": f"{to_flags(EXPERIMENT.selection.heuristic)} {to_flags(protocol.banks(EXPERIMENT, ['oracle'], FIRST))}",
    "cost": to_flags(protocol.banks(EXPERIMENT, EXPERIMENT.methods, EXPERIMENT.seeds)),
}


def report_file(name, file, form, category="Tables"):
    """A file of a table or figure that `snakemake --report` lists under the table's heading."""
    labels = {category.lower().removesuffix("s"): str(HEADINGS[name]).removesuffix("."), "as": form}
    return report(f"results/{file}", caption=f"captions/{name}.rst", category=category, labels=labels)


def protocol_of(name, category="Tables"):
    """The protocol of a table or figure, to read beside it and in the report."""
    return {
        "protocol": f"results/{name}.protocol.md",
        "page": report_file(name, f"{name}.protocol.html", "protocol", category),
    }


def files_of_table(name):
    """The outputs of a table: its numbers, the table to read in three forms, its protocol, and its record."""
    return {
        "csv": report_file(name, f"{name}.csv", "numbers (CSV)"),
        "png": report_file(name, f"{name}.png", "image"),
        "markdown": f"results/{name}.md",
        "latex": f"results/{name}.tex",
        **protocol_of(name),
        "record": f"results/{name}.json",
    }


def files_of_figure(name, **points):
    """The outputs of a figure: itself in two forms, the points behind it, its protocol, and its record."""
    return {
        "pdf": f"results/{name}.pdf",
        "png": report_file(name, f"{name}.png", "image", "Figures"),
        **points,
        **protocol_of(name, "Figures"),
        "record": f"results/{name}.json",
    }


# Tables 1 to 7, each tidy and in the paper's layout.
for table in INPUTS:

    rule:
        name:
            table
        input:
            **INPUTS[table],
        output:
            **files_of_table(table),
        log:
            log_of(table),
        benchmark:
            benchmark_of(table)
        conda:
            REPORT
        resources:
            **NEEDS.resources(table),
        params:
            inputs=lambda wildcards, input: flags_of(input),
            options=verbatim(OPTIONS[table]),
            code=code_hash(table),
        shell:
            altq("{rule}", "{params.inputs} {params.options} --output {output.csv}")


# Kurtosis of each layer, with the kind that the search chose.
rule figure1:
    input:
        statistics=expand(rules.statistics.output, model=EXPERIMENT.models),
        selections=selections(["learned"], EXPERIMENT.settings_of(STUDY.figures), FIRST),
    output:
        **files_of_figure("figure1", points="results/figure1.csv"),
    log:
        log_of("figure1"),
    benchmark:
        benchmark_of("figure1")
    conda:
        REPORT
    resources:
        **NEEDS.resources("figure1"),
    params:
        inputs=lambda wildcards, input: flags_of(input),
        options=verbatim(OPTIONS["figure1"]),
        code=code_hash("figure1"),
    shell:
        altq("{rule}", "{params.inputs} {params.options} --output {output.pdf}")


# The gain of rotation over affine at each sublayer, against its kurtosis.
use rule figure1 as figure2 with:
    input:
        statistics=expand(rules.statistics.output, model=EXPERIMENT.models),
        scores=expand(
            rules.reconstruction.output,
            model=EXPERIMENT.models,
            setting=EXPERIMENT.settings_of(STUDY.figures),
            seed=FIRST,
            policy="oracle",
        ),
    output:
        **files_of_figure("figure2", points="results/figure2.csv", correlation="results/figure2-correlation.csv"),
    log:
        log_of("figure2"),
    benchmark:
        benchmark_of("figure2")
    params:
        inputs=lambda wildcards, input: flags_of(input),
        options=verbatim(OPTIONS["figure2"]),
        code=code_hash("figure2"),


# The cost of each checkpoint: time and memory of calibration, states and assembly, from its history.
rule cost:
    input:
        expand(
            rules.assemble.output,
            model=EXPERIMENT.models,
            method=[method for method in EXPERIMENT.methods if method != FULL],
            setting=EXPERIMENT.settings,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds,
        ),
    output:
        **files_of_table("cost"),
    log:
        log_of("cost"),
    benchmark:
        benchmark_of("cost")
    conda:
        REPORT
    resources:
        **NEEDS.resources("cost"),
    params:
        options=verbatim(OPTIONS["cost"]),
        code=code_hash("cost"),
    shell:
        altq("cost", "--checkpoints $(dirname {input}) {params.options} --output {output.csv}")
