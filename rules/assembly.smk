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
        "results/checkpoints/{model}/{method}/{setting}/{weights}/seed{seed}/quantization.json",
    log:
        "results/logs/assemble/{model}/{method}/{setting}/{weights}/seed{seed}.log",
    benchmark:
        "results/benchmarks/assemble/{model}/{method}/{setting}/{weights}/seed{seed}.tsv"
    params:
        kinds=lambda wildcards: list(EXPERIMENT.banks_of(wildcards.method)),
        flags=lambda wildcards: to_flags(EXPERIMENT.rounding.model_copy(update={"weights": wildcards.weights})),
        code=code_hash("altq.commands.assemble"),
    threads: NEEDS.threads_of("assemble")
    resources:
        **NEEDS.resources("assemble"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq assemble --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --selection {input.selection} --setting {wildcards.setting} "
        "$(kinds=({params.kinds}); for index in {input.banks}; do "
        "echo --bank ${{kinds[$((i++))]}}=$(dirname $index); done) "
        "{params.flags} --output $(dirname {output}) 2> >(tee {log} >&2)"
