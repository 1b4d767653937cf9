# Perplexity over the test windows.


# Of a checkpoint.
rule perplexity:
    input:
        checkpoint=rules.assemble.output,
        tokens=rules.test_tokens.output.tokens,
    output:
        "results/perplexity/{model}/{method}/{setting}/{weights}/seed{seed}/{corpus}.json",
    log:
        "results/logs/perplexity/{model}/{method}/{setting}/{weights}/seed{seed}/{corpus}.log",
    benchmark:
        "results/benchmarks/perplexity/{model}/{method}/{setting}/{weights}/seed{seed}/{corpus}.tsv"
    params:
        code=code_hash("altq.commands.perplexity"),
    threads: 1
    resources:
        mem_mb=2500,
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq perplexity --threads {threads} --folder $(dirname {input.checkpoint}) --tokens {input.tokens} "
        "--method {wildcards.method} --setting {wildcards.setting} --weights {wildcards.weights} "
        "--seed {wildcards.seed} --output {output} 2> >(tee {log} >&2)"


# Of the model itself, in full precision.
rule perplexity_full:
    input:
        model=rules.fetch_model.output,
        tokens=rules.test_tokens.output.tokens,
    output:
        f"results/perplexity/{{model}}/{FULL}/{FULL_PRECISION}/none/seed0/{{corpus}}.json",
    log:
        f"results/logs/perplexity/{{model}}/{FULL}/{{corpus}}.log",
    benchmark:
        f"results/benchmarks/perplexity/{{model}}/{FULL}/{{corpus}}.tsv"
    params:
        code=code_hash("altq.commands.perplexity"),
    threads: 1
    resources:
        mem_mb=2500,
    conda:
        "../envs/quantize.yaml"
    shell:
        f"python3 -m altq perplexity --threads {{threads}} --folder results/models/{{wildcards.model}} "
        f"--tokens {{input.tokens}} --method {FULL} --setting {FULL_PRECISION} --weights none --seed 0 "
        "--output {output} 2> >(tee {log} >&2)"
