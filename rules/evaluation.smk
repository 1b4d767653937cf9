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
        f"<logs>/perplexity/{CHECKPOINT}/{{corpus}}.log",
    benchmark:
        f"<benchmarks>/perplexity/{CHECKPOINT}/{{corpus}}.tsv"
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
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
        f"<logs>/perplexity/{WHOLE}/{{corpus}}.log",
    benchmark:
        f"<benchmarks>/perplexity/{WHOLE}/{{corpus}}.tsv"


# The card of a checkpoint: README.md, beside its weights.
rule card:
    input:
        checkpoint=rules.assemble.output,
        before=expand(rules.perplexity_full.output, corpus=EXPERIMENT.corpora, allow_missing=True),
        after=expand(rules.perplexity.output, corpus=EXPERIMENT.corpora, allow_missing=True),
    output:
        f"results/checkpoints/{CHECKPOINT}/README.md",
    log:
        f"<logs>/card/{CHECKPOINT}.log",
    benchmark:
        f"<benchmarks>/card/{CHECKPOINT}.tsv"
    localrule: True
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        code=code_hash("card"),
    shell:
        altq(
            "card",
            "--checkpoint $(dirname {input.checkpoint}) --results {input.before} {input.after} --output {output}",
        )


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
        f"<logs>/zero_shot/{CHECKPOINT}/{{task}}.log",
    benchmark:
        f"<benchmarks>/zero_shot/{CHECKPOINT}/{{task}}.tsv"
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
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
        f"<logs>/zero_shot/{WHOLE}/{{task}}.log",
    benchmark:
        f"<benchmarks>/zero_shot/{WHOLE}/{{task}}.tsv"
