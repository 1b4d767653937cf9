# Tables, from the result files alone.


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


# Table 2: perplexity of every method at every setting; tidy, and in the paper's layout.
rule table2:
    input:
        perplexities(EXPERIMENT.methods, EXPERIMENT.settings, EXPERIMENT.seeds),
    output:
        **files_of_table("table2"),
    log:
        "results/logs/table2.log",
    benchmark:
        "results/benchmarks/table2.tsv"
    params:
        flags=to_flags(protocol.table2(EXPERIMENT)),
        code=code_hash("altq.commands.table2"),
    threads: 1
    resources:
        **NEEDS.resources("table2"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table2 --threads {threads} --results {input} {params.flags} --output {output.csv} "
        "2> >(tee {log} >&2)"


def results_of_table3(wildcards):
    if not EXPERIMENT.tasks:
        raise WorkflowError("Table 3 needs `tasks` in the configuration; config.yaml has those of the paper")
    options = EXPERIMENT.zero_shot
    return accuracies(EXPERIMENT.zero_shot_methods, EXPERIMENT.settings_of(options), EXPERIMENT.seeds)


# Table 3: zero-shot accuracy.
rule table3:
    input:
        results_of_table3,
    output:
        **files_of_table("table3"),
    log:
        "results/logs/table3.log",
    benchmark:
        "results/benchmarks/table3.tsv"
    params:
        flags=f"--reference {EXPERIMENT.zero_shot.reference} {to_flags(protocol.table3(EXPERIMENT))}",
        code=code_hash("altq.commands.table3"),
    threads: 1
    resources:
        **NEEDS.resources("table3"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table3 --threads {threads} --results {input} {params.flags} --output {output.csv} "
        "2> >(tee {log} >&2)"


# What each checkpoint cost: time and memory of calibration, states and assembly, from its history.
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
        "results/logs/cost.log",
    benchmark:
        "results/benchmarks/cost.tsv"
    params:
        flags=to_flags(protocol.banks(EXPERIMENT, EXPERIMENT.methods, EXPERIMENT.seeds)),
        code=code_hash("altq.commands.cost"),
    threads: 1
    resources:
        **NEEDS.resources("cost"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq cost --threads {threads} --checkpoints $(dirname {input}) {params.flags} "
        "--output {output.csv} 2> >(tee {log} >&2)"
