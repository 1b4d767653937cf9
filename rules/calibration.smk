# What the full-precision model holds, once for each model and seed, and the banks that are calibrated against it.
# States and banks write many files beside the one that is declared: Snakemake deletes the declared ones of a job that was
# stopped, and these are what the next run goes on from.


# Moments and kurtosis of every projection's weights.
rule statistics:
    input:
        model=rules.fetch_model.output,
    output:
        "results/statistics/{model}.json",
    log:
        "<logs>/statistics/{model}.log",
    benchmark:
        "<benchmarks>/statistics/{model}.tsv"
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        code=code_hash("statistics"),
    shell:
        altq("statistics", "--model $(dirname {input.model}) --output {output}")


# Hidden states at every sublayer border and the second moments of every site's input.
rule states:
    input:
        model=rules.fetch_model.output,
        tokens=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/calibration-seed{{seed}}.npy",
    output:
        "results/states/{model}/seed{seed}/states.json",
    log:
        "<logs>/states/{model}/seed{seed}.log",
    benchmark:
        "<benchmarks>/states/{model}/seed{seed}.tsv"
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        loss=EXPERIMENT.calibration.loss,
        # Results do not depend on it: as a function of the input it is not tracked.
        border_every=lambda wildcards, input: EXPERIMENT.calibration.border_every,
        code=code_hash("states"),
    shell:
        altq(
            "states",
            "--model $(dirname {input.model}) --tokens {input.tokens} --loss {params.loss}",
            "--border-every {params.border_every} --output $(dirname {output})",
        )


SHARDS = EXPERIMENT.calibration.shards
BY_UNIT = "|".join(bank for bank in BANKS if bank not in END_TO_END)


# A bank fitted unit by unit; on one thread, so that jobs run side by side without waiting on each other. Of a bank that
# is split, it finds the entries that the shards made.
rule calibrate:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
        shards=(
            [f"results/bank/{BANK}/shards/{number}-of-{SHARDS}.json" for number in range(1, SHARDS + 1)]
            if SHARDS > 1
            else []
        ),
    output:
        f"results/bank/{BANK}/index.json",
    log:
        f"<logs>/calibrate/{BANK}.log",
    benchmark:
        f"<benchmarks>/calibrate/{BANK}.tsv"
    wildcard_constraints:
        bank=BY_UNIT,
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        recipe=lambda wildcards: f"--kind {BANKS[wildcards.bank]} {recipe_flags(wildcards)}",
        part=lambda wildcards, input: f"--shards {input.shards}",
        folder=lambda wildcards: "results/bank/{model}/{setting}/seed{seed}/{bank}".format(**wildcards),
        code=code_hash("calibrate"),
    shell:
        altq("calibrate", ON_STATES, "{params.recipe} {params.part} --output {params.folder}")


# Some of the sublayers of such a bank, where it is split.
use rule calibrate as calibrate_shard with:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        f"results/bank/{BANK}/shards/{{shard}}-of-{SHARDS}.json",
    log:
        f"<logs>/calibrate/{BANK}/{{shard}}-of-{SHARDS}.log",
    benchmark:
        f"<benchmarks>/calibrate/{BANK}/{{shard}}-of-{SHARDS}.tsv"
    wildcard_constraints:
        bank=BY_UNIT,
        shard=r"\d+",
    params:
        part=lambda wildcards: f"--shard {wildcards.shard}/{SHARDS}",


# A bank fitted through the whole model, its residual stream rotated.
rule calibrate_end_to_end:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        f"results/bank/{BANK}/index.json",
    log:
        f"<logs>/calibrate_end_to_end/{BANK}.log",
    benchmark:
        f"<benchmarks>/calibrate_end_to_end/{BANK}.tsv"
    wildcard_constraints:
        bank="|".join(END_TO_END),
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        recipe=recipe_flags,
        code=code_hash("calibrate-end-to-end"),
    shell:
        altq("calibrate-end-to-end", ON_STATES, "{params.recipe} --output $(dirname {output})")
