# Selections: a kind for each sublayer. They are files, so that none needs a calibration of its own.


# One kind everywhere; the policy is named after it.
rule select_one_kind:
    output:
        "results/selections/{model}/{policy}.json",
    log:
        "results/logs/select/{model}/{policy}.log",
    benchmark:
        "results/benchmarks/select/{model}/{policy}.tsv"
    params:
        flags=lambda wildcards: f"--num-blocks {EXPERIMENT.models[wildcards.model].num_blocks}",
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        mem_mb=500,
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy {wildcards.policy} --model-name {wildcards.model} "
        "{params.flags} --output {output} 2> >(tee {log} >&2)"


# The outlier-guided heuristic (Eq. 8-15).
rule select_by_heuristic:
    input:
        rules.statistics.output,
    output:
        "results/selections/{model}/heuristic.json",
    log:
        "results/logs/select/{model}/heuristic.log",
    benchmark:
        "results/benchmarks/select/{model}/heuristic.tsv"
    params:
        flags=to_flags(EXPERIMENT.selection),
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        mem_mb=500,
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy heuristic --statistics {input} {params.flags} "
        "--output {output} 2> >(tee {log} >&2)"


ruleorder: select_by_heuristic > select_one_kind
