# The full-precision states, once for each model and seed, and the banks that are calibrated against them.
# All of them write many files beside the one that is declared: Snakemake deletes the declared ones of a job that was
# stopped, and these are what the next run goes on from.


# Hidden states at every sublayer border and the second moments of every site's input.
rule states:
    input:
        model=rules.fetch_model.output,
        tokens=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/calibration-seed{{seed}}.npy",
    output:
        "results/states/{model}/seed{seed}/states.json",
    log:
        "results/logs/states/{model}/seed{seed}.log",
    benchmark:
        "results/benchmarks/states/{model}/seed{seed}.tsv"
    params:
        flags=f"--loss {EXPERIMENT.calibration.loss}",
        code=code_hash("altq.commands.states"),
    threads: NEEDS.threads_of("states")
    resources:
        **NEEDS.resources("states"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq states --threads {threads} --model results/models/{wildcards.model} --tokens {input.tokens} "
        "{params.flags} --output $(dirname {output}) 2> >(tee {log} >&2)"


SHARDS = EXPERIMENT.calibration.shards
BY_UNIT = "|".join(bank for bank in BANKS if bank not in END_TO_END)


# Some of the sublayers of a bank that is fitted unit by unit, where it is split.
rule calibrate_shard:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        f"results/bank/{{model}}/{{setting}}/seed{{seed}}/{{bank}}/shards/{{shard}}-of-{SHARDS}.json",
    log:
        f"results/logs/calibrate/{{model}}/{{setting}}/seed{{seed}}/{{bank}}/{{shard}}-of-{SHARDS}.log",
    benchmark:
        f"results/benchmarks/calibrate/{{model}}/{{setting}}/seed{{seed}}/{{bank}}/{{shard}}-of-{SHARDS}.tsv"
    wildcard_constraints:
        bank=BY_UNIT,
        shard=r"\d+",
    params:
        flags=lambda wildcards: f"--kind {BANKS[wildcards.bank]} {to_flags(EXPERIMENT.recipe_of(wildcards.bank))}",
        code=code_hash("altq.commands.calibrate"),
    threads: NEEDS.threads_of("calibrate_shard")
    resources:
        **NEEDS.resources("calibrate_shard"),
    retries: 1
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq calibrate --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --setting {wildcards.setting} --seed {wildcards.seed} {params.flags} "
        f"--shard {{wildcards.shard}}/{SHARDS} --output $(dirname $(dirname {{output}})) 2> >(tee {{log}} >&2)"


# A bank fitted unit by unit; on one thread, so that jobs run side by side without waiting on each other. Of a bank that
# is split, it finds the entries that the shards made.
rule calibrate:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
        shards=(
            [rules.calibrate_shard.output[0].replace("{shard}", str(number + 1)) for number in range(SHARDS)]
            if SHARDS > 1
            else []
        ),
    output:
        "results/bank/{model}/{setting}/seed{seed}/{bank}/index.json",
    log:
        "results/logs/calibrate/{model}/{setting}/seed{seed}/{bank}.log",
    benchmark:
        "results/benchmarks/calibrate/{model}/{setting}/seed{seed}/{bank}.tsv"
    wildcard_constraints:
        bank=BY_UNIT,
    params:
        flags=lambda wildcards: f"--kind {BANKS[wildcards.bank]} {to_flags(EXPERIMENT.recipe_of(wildcards.bank))}",
        code=code_hash("altq.commands.calibrate"),
    threads: NEEDS.threads_of("calibrate")
    resources:
        **NEEDS.resources("calibrate"),
    retries: 1
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq calibrate --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --setting {wildcards.setting} --seed {wildcards.seed} {params.flags} "
        "--shards {input.shards} --output $(dirname {output}) 2> >(tee {log} >&2)"


# A bank fitted through the whole model, its residual stream rotated.
rule calibrate_end_to_end:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        "results/bank/{model}/{setting}/seed{seed}/{bank}/index.json",
    log:
        "results/logs/calibrate_end_to_end/{model}/{setting}/seed{seed}/{bank}.log",
    benchmark:
        "results/benchmarks/calibrate_end_to_end/{model}/{setting}/seed{seed}/{bank}.tsv"
    wildcard_constraints:
        bank="|".join(END_TO_END),
    params:
        flags=lambda wildcards: to_flags(EXPERIMENT.recipe_of(wildcards.bank)),
        code=code_hash("altq.commands.calibrate_end_to_end"),
    threads: NEEDS.threads_of("calibrate_end_to_end")
    resources:
        **NEEDS.resources("calibrate_end_to_end"),
    retries: 1
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq calibrate-end-to-end --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --setting {wildcards.setting} --seed {wildcards.seed} {params.flags} "
        "--output $(dirname {output}) 2> >(tee {log} >&2)"
