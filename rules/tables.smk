# Tables, from the result files alone.


# Table 2: perplexity of every method at every setting; tidy, and in the paper's layout.
rule table2:
    input:
        perplexities(EXPERIMENT.methods, EXPERIMENT.settings, EXPERIMENT.seeds),
    output:
        csv=report(
            "results/table2.csv", caption="captions/table2.rst", category="Tables", labels={"table": "2", "as": "CSV"}
        ),
        png=report(
            "results/table2.png", caption="captions/table2.rst", category="Tables", labels={"table": "2", "as": "image"}
        ),
        markdown="results/table2.md",
        latex="results/table2.tex",
        record="results/table2.json",
    log:
        "results/logs/table2.log",
    benchmark:
        "results/benchmarks/table2.tsv"
    params:
        flags=to_flags(captions(EXPERIMENT)),
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
        csv=report(
            "results/table3.csv", caption="captions/table3.rst", category="Tables", labels={"table": "3", "as": "CSV"}
        ),
        png=report(
            "results/table3.png", caption="captions/table3.rst", category="Tables", labels={"table": "3", "as": "image"}
        ),
        markdown="results/table3.md",
        latex="results/table3.tex",
        record="results/table3.json",
    log:
        "results/logs/table3.log",
    benchmark:
        "results/benchmarks/table3.tsv"
    params:
        flags=f"--reference {EXPERIMENT.zero_shot.reference} {to_flags(zero_shot_captions(EXPERIMENT))}",
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
        csv=report(
            "results/cost.csv", caption="captions/cost.rst", category="Tables", labels={"table": "cost", "as": "CSV"}
        ),
        markdown="results/cost.md",
        record="results/cost.json",
    log:
        "results/logs/cost.log",
    benchmark:
        "results/benchmarks/cost.tsv"
    params:
        code=code_hash("altq.commands.cost"),
    threads: 1
    resources:
        **NEEDS.resources("cost"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq cost --threads {threads} --checkpoints $(dirname {input}) --output {output.csv} "
        "2> >(tee {log} >&2)"
