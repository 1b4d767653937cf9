# Perplexity over the test windows, and accuracy on zero-shot tasks.


# Perplexity of a checkpoint.
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
    threads: NEEDS.threads_of("perplexity")
    resources:
        **NEEDS.resources("perplexity"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq perplexity --threads {threads} --folder $(dirname {input.checkpoint}) --tokens {input.tokens} "
        "--method {wildcards.method} --setting {wildcards.setting} --weights {wildcards.weights} "
        "--seed {wildcards.seed} --output {output} 2> >(tee {log} >&2)"


# Perplexity of the model itself, in full precision.
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
    threads: NEEDS.threads_of("perplexity_full")
    resources:
        **NEEDS.resources("perplexity_full"),
    conda:
        "../envs/quantize.yaml"
    shell:
        f"python3 -m altq perplexity --threads {{threads}} --folder results/models/{{wildcards.model}} "
        f"--tokens {{input.tokens}} --method {FULL} --setting {FULL_PRECISION} --weights none --seed 0 "
        "--output {output} 2> >(tee {log} >&2)"


# Accuracy of a checkpoint.
rule zero_shot:
    input:
        checkpoint=rules.assemble.output,
        task=rules.fetch_task.output.rows,
        requests=rules.requests.output.requests,
    output:
        per_item="results/zero_shot/{model}/{method}/{setting}/{weights}/seed{seed}/{task}.parquet",
        result="results/zero_shot/{model}/{method}/{setting}/{weights}/seed{seed}/{task}.json",
    log:
        "results/logs/zero_shot/{model}/{method}/{setting}/{weights}/seed{seed}/{task}.log",
    benchmark:
        "results/benchmarks/zero_shot/{model}/{method}/{setting}/{weights}/seed{seed}/{task}.tsv"
    params:
        code=code_hash("altq.commands.zero_shot"),
    threads: NEEDS.threads_of("zero_shot")
    resources:
        **NEEDS.resources("zero_shot"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq zero-shot --threads {threads} --folder $(dirname {input.checkpoint}) --task {wildcards.task} "
        "--items results/tasks/{wildcards.task} --requests {input.requests} "
        "--method {wildcards.method} --setting {wildcards.setting} --weights {wildcards.weights} "
        "--seed {wildcards.seed} --output {output.per_item} 2> >(tee {log} >&2)"


# Accuracy of the model itself, in full precision.
rule zero_shot_full:
    input:
        model=rules.fetch_model.output,
        task=rules.fetch_task.output.rows,
        requests=rules.requests.output.requests,
    output:
        per_item=f"results/zero_shot/{{model}}/{FULL}/{FULL_PRECISION}/none/seed0/{{task}}.parquet",
        result=f"results/zero_shot/{{model}}/{FULL}/{FULL_PRECISION}/none/seed0/{{task}}.json",
    log:
        f"results/logs/zero_shot/{{model}}/{FULL}/{{task}}.log",
    benchmark:
        f"results/benchmarks/zero_shot/{{model}}/{FULL}/{{task}}.tsv"
    params:
        code=code_hash("altq.commands.zero_shot"),
    threads: NEEDS.threads_of("zero_shot_full")
    resources:
        **NEEDS.resources("zero_shot_full"),
    conda:
        "../envs/quantize.yaml"
    shell:
        f"python3 -m altq zero-shot --threads {{threads}} --folder results/models/{{wildcards.model}} "
        f"--task {{wildcards.task}} --items results/tasks/{{wildcards.task}} --requests {{input.requests}} "
        f"--method {FULL} --setting {FULL_PRECISION} --weights none --seed 0 "
        "--output {output.per_item} 2> >(tee {log} >&2)"


def results_of(one, full, methods, settings, seeds, **places):
    """The results of methods that the rules `one` and `full` write, of the latter once for all settings and seeds."""
    quantized = [method for method in methods if method != FULL]
    found = expand(full, **places) if FULL in methods else []
    weights = EXPERIMENT.rounding.weights
    return found + expand(one, method=quantized, setting=settings, seed=seeds, weights=weights, **places)


def perplexities(methods, settings, seeds, model=tuple(EXPERIMENT.models)):
    """Perplexities of methods, on every text."""
    full, one = rules.perplexity_full.output[0], rules.perplexity.output[0]
    return results_of(one, full, methods, settings, seeds, model=model, corpus=EXPERIMENT.corpora)


def accuracies(methods, settings, seeds):
    """Accuracies of methods, on every task."""
    full, one = rules.zero_shot_full.output.result, rules.zero_shot.output.result
    return results_of(one, full, methods, settings, seeds, model=EXPERIMENT.models, task=EXPERIMENT.tasks)
