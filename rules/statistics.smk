# What the weights themselves say, before any text.


# Moments and kurtosis of every projection.
rule statistics:
    input:
        rules.fetch_model.output,
    output:
        "results/statistics/{model}.json",
    log:
        "results/logs/statistics/{model}.log",
    benchmark:
        "results/benchmarks/statistics/{model}.tsv"
    params:
        code=code_hash("altq.commands.statistics"),
    threads: NEEDS.threads_of("statistics")
    resources:
        **NEEDS.resources("statistics"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq statistics --threads {threads} --model results/models/{wildcards.model} --output {output} "
        "2> >(tee {log} >&2)"
