# How selections compare: Tables 1, 4, 6 and 7, Figures 1 and 2. All of it is read from the same banks.

STUDY = EXPERIMENT.study
FIRST = EXPERIMENT.seeds[:1]
"""The seed of all but Table 7."""


def results_of_table(table, methods, seeds):
    """The results that a table reads: perplexities, and accuracies where it asks for them."""
    of = (methods, EXPERIMENT.settings_of(table), seeds)
    return {"results": perplexities(*of), "zero_shot": accuracies(*of) if table.zero_shot else []}


def selections(policies, settings=(), seeds=()):
    """Selection files of these policies."""
    measured = [policy for policy in policies if policy in MEASURED]
    below = expand(
        "results/selections/{model}/{setting}/seed{seed}/{policy}.json",
        model=EXPERIMENT.models,
        setting=settings,
        seed=seeds,
        policy=measured,
    )
    others = [policy for policy in policies if policy not in MEASURED]
    return below + expand("results/selections/{model}/{policy}.json", model=EXPERIMENT.models, policy=others)


# Random selections against one kind everywhere.
rule table1:
    input:
        **results_of_table(STUDY.table1, [FULL, "affine", "rotation", *EXPERIMENT.random_methods], FIRST),
    output:
        csv=report(
            "results/table1.csv", caption="captions/table1.rst", category="Tables", labels={"table": "1", "as": "CSV"}
        ),
        png=report(
            "results/table1.png", caption="captions/table1.rst", category="Tables", labels={"table": "1", "as": "image"}
        ),
        markdown="results/table1.md",
        latex="results/table1.tex",
        record="results/table1.json",
    log:
        "results/logs/table1.log",
    benchmark:
        "results/benchmarks/table1.tsv"
    params:
        flags=to_flags(study_captions(EXPERIMENT, STUDY.table1, ["affine", "rotation", "best_random"], FIRST)),
        code=code_hash("altq.commands.table1"),
    threads: 1
    resources:
        **NEEDS.resources("table1"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table1 --threads {threads} --results {input.results} --zero-shot {input.zero_shot} "
        "{params.flags} --output {output.csv} 2> >(tee {log} >&2)"


# The learned selection against the heuristic.
rule table4:
    input:
        **results_of_table(STUDY.table4, ["learned", "adaptive"], FIRST),
        selections=selections(["learned", "heuristic"], EXPERIMENT.settings_of(STUDY.table4), FIRST),
    output:
        csv=report(
            "results/table4.csv", caption="captions/table4.rst", category="Tables", labels={"table": "4", "as": "CSV"}
        ),
        png=report(
            "results/table4.png", caption="captions/table4.rst", category="Tables", labels={"table": "4", "as": "image"}
        ),
        markdown="results/table4.md",
        latex="results/table4.tex",
        record="results/table4.json",
    log:
        "results/logs/table4.log",
    benchmark:
        "results/benchmarks/table4.tsv"
    params:
        flags=to_flags(study_captions(EXPERIMENT, STUDY.table4, ["learned", "adaptive"], FIRST)),
        code=code_hash("altq.commands.table4"),
    threads: 1
    resources:
        **NEEDS.resources("table4"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table4 --threads {threads} --results {input.results} --zero-shot {input.zero_shot} "
        "--selections {input.selections} {params.flags} --output {output.csv} 2> >(tee {log} >&2)"


def distinct_of_grid(wildcards):
    """The perplexities that Table 6 needs: of the learned selection, and once of each distinct point."""
    results = perplexities(["learned"], EXPERIMENT.settings_of(STUDY.table6), FIRST)
    for model in EXPERIMENT.models:
        first = read_json(checkpoints.distinct.get(model=model).output[0])["first"]
        needed = dict.fromkeys(method_of_policy(first[point]) for point in EXPERIMENT.grid.named)
        results += perplexities(needed, EXPERIMENT.settings_of(STUDY.table6), FIRST, model)
    return results


# The heuristic's options; what selects alike is assembled once.
rule table6:
    input:
        results=distinct_of_grid,
        selections=selections(["learned", *EXPERIMENT.grid.named], EXPERIMENT.settings_of(STUDY.table6), FIRST),
        distinct=expand("results/selections/{model}/distinct.json", model=EXPERIMENT.models),
    output:
        csv=report(
            "results/table6.csv", caption="captions/table6.rst", category="Tables", labels={"table": "6", "as": "CSV"}
        ),
        png=report(
            "results/table6.png", caption="captions/table6.rst", category="Tables", labels={"table": "6", "as": "image"}
        ),
        markdown="results/table6.md",
        latex="results/table6.tex",
        record="results/table6.json",
    log:
        "results/logs/table6.log",
    benchmark:
        "results/benchmarks/table6.tsv"
    params:
        flags=f"{to_flags(EXPERIMENT.grid)} "
        + to_flags(study_captions(EXPERIMENT, STUDY.table6, ["learned", "adaptive"], FIRST)),
        code=code_hash("altq.commands.table6"),
    threads: 1
    resources:
        **NEEDS.resources("table6"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table6 --threads {threads} --results {input.results} --selections {input.selections} "
        "--distinct {input.distinct} {params.flags} --output {output.csv} 2> >(tee {log} >&2)"


# Every policy at every setting, over calibration seeds.
rule table7:
    input:
        **results_of_table(STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds),
    output:
        csv=report(
            "results/table7.csv", caption="captions/table7.rst", category="Tables", labels={"table": "7", "as": "CSV"}
        ),
        png=report(
            "results/table7.png", caption="captions/table7.rst", category="Tables", labels={"table": "7", "as": "image"}
        ),
        markdown="results/table7.md",
        latex="results/table7.tex",
        record="results/table7.json",
    log:
        "results/logs/table7.log",
    benchmark:
        "results/benchmarks/table7.tsv"
    params:
        flags=to_flags(study_captions(EXPERIMENT, STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds)),
        code=code_hash("altq.commands.table7"),
    threads: 1
    resources:
        **NEEDS.resources("table7"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table7 --threads {threads} --results {input.results} --zero-shot {input.zero_shot} "
        "{params.flags} --output {output.csv} 2> >(tee {log} >&2)"


# Kurtosis of each layer, with the kind that the search chose.
rule figure1:
    input:
        statistics=expand(rules.statistics.output, model=EXPERIMENT.models),
        selections=selections(["learned"], EXPERIMENT.settings_of(STUDY.figures), FIRST),
    output:
        pdf="results/figure1.pdf",
        png=report(
            "results/figure1.png", caption="captions/figure1.rst", category="Figures", labels={"figure": "1"}
        ),
        points="results/figure1.csv",
        record="results/figure1.json",
    log:
        "results/logs/figure1.log",
    benchmark:
        "results/benchmarks/figure1.tsv"
    params:
        flags=to_flags(EXPERIMENT.selection.heuristic),
        code=code_hash("altq.commands.figure1"),
    threads: 1
    resources:
        **NEEDS.resources("figure1"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq figure1 --threads {threads} --statistics {input.statistics} --selections {input.selections} "
        "{params.flags} --output {output.pdf} 2> >(tee {log} >&2)"


# What rotation gains over affine at each sublayer, against its kurtosis.
rule figure2:
    input:
        statistics=expand(rules.statistics.output, model=EXPERIMENT.models),
        scores=expand(
            "results/scores/{model}/{setting}/seed{seed}/oracle/scores.json",
            model=EXPERIMENT.models,
            setting=EXPERIMENT.settings_of(STUDY.figures),
            seed=FIRST,
        ),
    output:
        pdf="results/figure2.pdf",
        png=report(
            "results/figure2.png", caption="captions/figure2.rst", category="Figures", labels={"figure": "2"}
        ),
        points="results/figure2.csv",
        correlation="results/figure2-correlation.csv",
        record="results/figure2.json",
    log:
        "results/logs/figure2.log",
    benchmark:
        "results/benchmarks/figure2.tsv"
    params:
        flags=to_flags(EXPERIMENT.selection.heuristic),
        code=code_hash("altq.commands.figure2"),
    threads: 1
    resources:
        **NEEDS.resources("figure2"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq figure2 --threads {threads} --statistics {input.statistics} --scores {input.scores} "
        "{params.flags} --output {output.pdf} 2> >(tee {log} >&2)"
