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
        log_of("statistics/{model}"),
    benchmark:
        benchmark_of("statistics/{model}")
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("statistics")
    resources:
        **NEEDS.resources("statistics"),
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
        log_of("states/{model}/seed{seed}"),
    benchmark:
        benchmark_of("states/{model}/seed{seed}")
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("states")
    resources:
        **NEEDS.resources("states"),
    params:
        loss=EXPERIMENT.calibration.loss,
        # Results do not depend on it: as a function of the input it is not tracked.
        border_every=lambda wildcards, input: EXPERIMENT.calibration.border_every,
        code=code_hash("states"),
    shell:
        altq(
            "states",
            "--model $(dirname {input.model}) --tokens {input.tokens} --loss {params.loss} "
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
        log_of(f"calibrate/{BANK}"),
    benchmark:
        benchmark_of(f"calibrate/{BANK}")
    wildcard_constraints:
        bank=BY_UNIT,
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("calibrate")
    resources:
        **NEEDS.resources("calibrate"),
    params:
        recipe=lambda wildcards: f"--kind {BANKS[wildcards.bank]} {to_flags(EXPERIMENT.recipe_of(wildcards.bank))}",
        part=lambda wildcards, input: f"--shards {input.shards}",
        folder=lambda wildcards: f"results/bank/{BANK}".format(**wildcards),
        code=code_hash("calibrate"),
    shell:
        altq(
            "calibrate",
            "--model $(dirname {input.model}) --states $(dirname {input.states}) --setting {wildcards.setting} "
            "--seed {wildcards.seed} {params.recipe} {params.part} --output {params.folder}",
        )


# Some of the sublayers of such a bank, where it is split.
use rule calibrate as calibrate_shard with:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        f"results/bank/{BANK}/shards/{{shard}}-of-{SHARDS}.json",
    log:
        log_of(f"calibrate/{BANK}/{{shard}}-of-{SHARDS}"),
    benchmark:
        benchmark_of(f"calibrate/{BANK}/{{shard}}-of-{SHARDS}")
    wildcard_constraints:
        bank=BY_UNIT,
        shard=r"\d+",
    resources:
        **NEEDS.resources("calibrate_shard"),
    params:
        recipe=lambda wildcards: f"--kind {BANKS[wildcards.bank]} {to_flags(EXPERIMENT.recipe_of(wildcards.bank))}",
        part=lambda wildcards: f"--shard {wildcards.shard}/{SHARDS}",
        folder=lambda wildcards: f"results/bank/{BANK}".format(**wildcards),
        code=code_hash("calibrate"),


# A bank fitted through the whole model, its residual stream rotated.
rule calibrate_end_to_end:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        f"results/bank/{BANK}/index.json",
    log:
        log_of(f"calibrate_end_to_end/{BANK}"),
    benchmark:
        benchmark_of(f"calibrate_end_to_end/{BANK}")
    wildcard_constraints:
        bank="|".join(END_TO_END),
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("calibrate_end_to_end")
    resources:
        **NEEDS.resources("calibrate_end_to_end"),
    params:
        recipe=lambda wildcards: to_flags(EXPERIMENT.recipe_of(wildcards.bank)),
        code=code_hash("calibrate-end-to-end"),
    shell:
        altq(
            "calibrate-end-to-end",
            "--model $(dirname {input.model}) --states $(dirname {input.states}) --setting {wildcards.setting} "
            "--seed {wildcards.seed} {params.recipe} --output $(dirname {output})",
        )
