# Tables, from the result files alone.


# Table 2: perplexity of every method at every setting; tidy, and in the paper's layout.
rule table2:
    input:
        expand(
            rules.perplexity_full.output,
            model=EXPERIMENT.models,
            corpus=EXPERIMENT.corpora,
        )
        if FULL in EXPERIMENT.methods
        else [],
        expand(
            rules.perplexity.output,
            model=EXPERIMENT.models,
            method=[method for method in EXPERIMENT.methods if method != FULL],
            setting=EXPERIMENT.settings,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds,
            corpus=EXPERIMENT.corpora,
        ),
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
        mem_mb=1000,
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table2 --threads {threads} --results {input} {params.flags} --output {output.csv} "
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
        mem_mb=1000,
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq cost --threads {threads} --checkpoints $(dirname {input}) --output {output.csv} "
        "2> >(tee {log} >&2)"
