# Tables and figures, from the result files alone: Tables 2 and 3, the study of selections, the kernels, what it cost.

# By table: the named inputs, which its command takes as flags.
INPUTS = {
    "table1": results_of_table(STUDY.table1, [FULL, "affine", "rotation", *EXPERIMENT.random_methods], FIRST),
    "table2": {"results": perplexities(EXPERIMENT.methods, EXPERIMENT.settings, EXPERIMENT.seeds)},
    "table3": {"results": results_of_table3},
    "table4": {
        **results_of_table(STUDY.table4, ["learned", "adaptive"], FIRST),
        "selections": selections(["learned", "heuristic"], STUDY.table4),
    },
    "table5": {
        "results": [
            rules.benchmark_cpu.output.csv,
            *([rules.benchmark_gpu.output.csv] if EXPERIMENT.kernels.gpu else []),
        ]
    },
    "table6": {
        "results": results_of_table6,
        "selections": selections(["learned", *EXPERIMENT.grid.named], STUDY.table6),
        "distinct": expand(rules.distinct.output, model=EXPERIMENT.models),
    },
    "table7": results_of_table(STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds),
}

# By table: what its command is told besides.
OPTIONS = {
    "table1": study_flags(STUDY.table1, ["affine", "rotation", "best_random"]),
    "table2": to_flags(protocol.table2(EXPERIMENT)),
    "table3": f"--reference {EXPERIMENT.zero_shot.reference} {to_flags(protocol.table3(EXPERIMENT))}",
    "table4": study_flags(STUDY.table4, ["learned", "adaptive"]),
    "table5": "",
    "table6": f"{to_flags(EXPERIMENT.grid)} {study_flags(STUDY.table6, ['learned', 'adaptive'])}",
    "table7": study_flags(STUDY.table7, STUDY.table7.policies, STUDY.table7.seeds),
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
            f"<logs>/{table}.log",
        benchmark:
            f"<benchmarks>/{table}.tsv"
        conda:
            REPORT
        resources:
            **NEEDS.resources,
        params:
            inputs=lambda wildcards, input: flags_of(input),
            options=verbatim(OPTIONS[table]),
            code=code_hash(table),
        # Snakemake reads this line once more when the job runs, where `table` is the last one of the loop. That {rule} is
        # "from outside of the rule", as `snakemake --lint` has it, is not so: it is the rule's own name.
        shell:
            altq("{rule}", "{params.inputs} {params.options} --output {output.csv}")


# Kurtosis of each layer, with the kind that the search chose.
rule figure1:
    input:
        statistics=expand(rules.statistics.output, model=EXPERIMENT.models),
        selections=selections(["learned"], STUDY.figures),
    output:
        **files_of_figure("figure1"),
    log:
        "<logs>/figure1.log",
    benchmark:
        "<benchmarks>/figure1.tsv"
    conda:
        REPORT
    resources:
        **NEEDS.resources,
    params:
        inputs=lambda wildcards, input: flags_of(input),
        options=verbatim(figure_flags("learned")),
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
        **files_of_figure("figure2", correlation="results/figure2-correlation.csv"),
    log:
        "<logs>/figure2.log",
    benchmark:
        "<benchmarks>/figure2.tsv"
    params:
        options=verbatim(figure_flags("oracle")),
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
        "<logs>/cost.log",
    benchmark:
        "<benchmarks>/cost.tsv"
    conda:
        REPORT
    resources:
        **NEEDS.resources,
    params:
        options=verbatim(to_flags(protocol.banks(EXPERIMENT, EXPERIMENT.methods, EXPERIMENT.seeds))),
        code=code_hash("cost"),
    shell:
        altq("cost", "--checkpoints $(dirname {input}) {params.options} --output {output.csv}")
