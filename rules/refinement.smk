# Refined checkpoints, of methods with a suffix behind their name; included where the configuration has a `refinement`.

REFINED_CHECKPOINT = f"{{model}}/{{method}}{REFINED}/{{setting}}/{{weights}}/seed{{seed}}"

REFINEMENT_WINDOWS = (
    f"--split calibration --window-length {EXPERIMENT.calibration.window_length} "
    f"--num-windows {EXPERIMENT.refinement.windows}"
) + (f" --bos {EXPERIMENT.calibration.bos}" if EXPERIMENT.calibration.bos else "")


# Windows of the calibration text that steps are taken on.
use rule calibration_tokens as refinement_tokens with:
    pathvars:
        split="refinement",
    params:
        windows=REFINEMENT_WINDOWS,


# Windows beside these, which say when to stop.
use rule calibration_tokens as refinement_held_out_tokens with:
    pathvars:
        split="refinement_held_out",
    params:
        windows=f"{REFINEMENT_WINDOWS} --held-out {EXPERIMENT.refinement.held_out_windows}",


# A checkpoint with the same codes, whose scales are trained on the full-precision model's logits.
rule refine:
    input:
        model=rules.fetch_model.output,
        checkpoint=rules.assemble.output,
        tokens=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/refinement-seed{{seed}}.npy",
        held_out=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/refinement_held_out-seed{{seed}}.npy",
    output:
        f"results/checkpoints/{REFINED_CHECKPOINT}/quantization.json",
    log:
        f"<logs>/refine/{REFINED_CHECKPOINT}.log",
    benchmark:
        f"<benchmarks>/refine/{REFINED_CHECKPOINT}.tsv"
    wildcard_constraints:
        method=UNREFINED,
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        recipe=to_flags(EXPERIMENT.refinement.recipe),
        method=lambda wildcards: f"--method {wildcards.method}{REFINED}",
        code=code_hash("refine"),
    shell:
        altq(
            "refine",
            "--model $(dirname {input.model}) --checkpoint $(dirname {input.checkpoint}) --tokens {input.tokens}",
            "--held-out {input.held_out} {params.recipe} {params.method} --output $(dirname {output})",
        )
