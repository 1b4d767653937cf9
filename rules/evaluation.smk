# Perplexity over the test windows, and accuracy on zero-shot tasks.

WHOLE = f"{{model}}/{FULL}/{FULL_PRECISION}/none/seed0"
"""Where the results of the model itself lie, in full precision."""


# Perplexity of a checkpoint.
rule perplexity:
    input:
        folder=rules.assemble.output,
        tokens=rules.test_tokens.output.tokens,
    output:
        f"results/perplexity/{CHECKPOINT}/{{corpus}}.json",
    log:
        log_of(f"perplexity/{CHECKPOINT}/{{corpus}}"),
    benchmark:
        benchmark_of(f"perplexity/{CHECKPOINT}/{{corpus}}")
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("perplexity")
    resources:
        **NEEDS.resources("perplexity"),
    params:
        code=code_hash("perplexity"),
    shell:
        altq("perplexity", "--folder $(dirname {input.folder}) --tokens {input.tokens} --output {output}")


# Perplexity of the model itself.
use rule perplexity as perplexity_full with:
    input:
        folder=rules.fetch_model.output,
        tokens=rules.test_tokens.output.tokens,
    output:
        f"results/perplexity/{WHOLE}/{{corpus}}.json",
    log:
        log_of(f"perplexity/{WHOLE}/{{corpus}}"),
    benchmark:
        benchmark_of(f"perplexity/{WHOLE}/{{corpus}}")


# Accuracy of a checkpoint.
rule zero_shot:
    input:
        folder=rules.assemble.output,
        task=rules.fetch_task.output.rows,
        requests=rules.requests.output.requests,
    output:
        per_item=f"results/zero_shot/{CHECKPOINT}/{{task}}.parquet",
        result=f"results/zero_shot/{CHECKPOINT}/{{task}}.json",
    log:
        log_of(f"zero_shot/{CHECKPOINT}/{{task}}"),
    benchmark:
        benchmark_of(f"zero_shot/{CHECKPOINT}/{{task}}")
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("zero_shot")
    resources:
        **NEEDS.resources("zero_shot"),
    params:
        code=code_hash("zero-shot"),
    shell:
        altq(
            "zero-shot",
            "--folder $(dirname {input.folder}) --task {wildcards.task} --items $(dirname {input.task}) "
            "--requests {input.requests} --output {output.per_item}",
        )


# Accuracy of the model itself.
use rule zero_shot as zero_shot_full with:
    input:
        folder=rules.fetch_model.output,
        task=rules.fetch_task.output.rows,
        requests=rules.requests.output.requests,
    output:
        per_item=f"results/zero_shot/{WHOLE}/{{task}}.parquet",
        result=f"results/zero_shot/{WHOLE}/{{task}}.json",
    log:
        log_of(f"zero_shot/{WHOLE}/{{task}}"),
    benchmark:
        benchmark_of(f"zero_shot/{WHOLE}/{{task}}")


def results_of(one, full, methods, settings, seeds, **places):
    """The results of methods that the rules `one` and `full` write, of the latter once for all settings and seeds."""
    quantized = [method for method in methods if method != FULL]
    whole = expand(full, **places) if FULL in methods else []
    weights = EXPERIMENT.rounding.weights
    return whole + expand(one, method=quantized, setting=settings, seed=seeds, weights=weights, **places)


def perplexities(methods, settings, seeds, model=tuple(EXPERIMENT.models)):
    """Perplexities of methods, on every text."""
    full, one = rules.perplexity_full.output[0], rules.perplexity.output[0]
    return results_of(one, full, methods, settings, seeds, model=model, corpus=EXPERIMENT.corpora)


def accuracies(methods, settings, seeds):
    """Accuracies of methods, on every task."""
    full, one = rules.zero_shot_full.output.result, rules.zero_shot.output.result
    return results_of(one, full, methods, settings, seeds, model=EXPERIMENT.models, task=EXPERIMENT.tasks)
