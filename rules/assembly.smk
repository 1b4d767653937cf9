# Selection and bank become a checkpoint.


# The quantized model of one method: its selection's entries from the bank, weights rounded.
rule assemble:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
        selection=selection_of,
        banks=lambda wildcards: expand(
            rules.calibrate.output, bank=EXPERIMENT.banks_of(wildcards.method).values(), allow_missing=True
        ),
    output:
        f"results/checkpoints/{CHECKPOINT}/quantization.json",
    log:
        f"<logs>/assemble/{CHECKPOINT}.log",
    benchmark:
        f"<benchmarks>/assemble/{CHECKPOINT}.tsv"
    wildcard_constraints:
        method=UNREFINED,
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        rounding=lambda wildcards: to_flags(EXPERIMENT.rounding.model_copy(update={"weights": wildcards.weights})),
        banks=lambda wildcards, input: " ".join(map(os.path.dirname, input.banks)),
        code=code_hash("assemble"),
    shell:
        altq(
            "assemble",
            "--model $(dirname {input.model}) --states $(dirname {input.states}) --selection {input.selection} "
            "--banks {params.banks} --setting {wildcards.setting} --method {wildcards.method} "
            "--seed {wildcards.seed} {params.rounding} --output $(dirname {output})",
        )
