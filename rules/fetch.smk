# Models, corpora, tasks and tokens.

CALIBRATION_WINDOWS = (
    f"--split calibration --num-windows {EXPERIMENT.calibration.num_windows} "
    f"--window-length {EXPERIMENT.calibration.window_length}"
) + (f" --bos {EXPERIMENT.calibration.bos}" if EXPERIMENT.calibration.bos else "")
TEST_WINDOWS = (
    f"--split test --window-length {EXPERIMENT.evaluation.window_length}"
    + (f" --num-windows {EXPERIMENT.evaluation.num_windows}" if EXPERIMENT.evaluation.num_windows else "")
    + (f" --bos {EXPERIMENT.evaluation.bos}" if EXPERIMENT.evaluation.bos else "")
)


# A model as one verified folder, wherever it comes from.
rule fetch_model:
    output:
        "results/models/{model}/source.json",
    log:
        "<logs>/fetch_model/{model}.log",
    benchmark:
        "<benchmarks>/fetch_model/{model}.tsv"
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        source=lambda wildcards: source_flags(EXPERIMENT.models[wildcards.model]),
        code=code_hash("fetch-model"),
    shell:
        altq("fetch-model", "--source {params.source} --output $(dirname {output})")


# The calibration text and the test text of a corpus.
rule fetch_corpus:
    output:
        calibration="results/corpora/{corpus}/calibration.txt",
        test="results/corpora/{corpus}/test.txt",
        source="results/corpora/{corpus}/source.json",
    log:
        "<logs>/fetch_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/fetch_corpus/{corpus}.tsv"
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        source=lambda wildcards: source_flags(EXPERIMENT.corpora[wildcards.corpus]),
        code=code_hash("fetch-corpus"),
    shell:
        altq("fetch-corpus", "--source {params.source} --output $(dirname {output.source})")


# The items of a zero-shot task.
rule fetch_task:
    output:
        rows="results/tasks/{task}/items.parquet",
        source="results/tasks/{task}/source.json",
    log:
        "<logs>/fetch_task/{task}.log",
    benchmark:
        "<benchmarks>/fetch_task/{task}.tsv"
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        source=lambda wildcards: source_flags(EXPERIMENT.tasks[wildcards.task]),
        code=code_hash("fetch-task"),
    shell:
        altq("fetch-task", "--task {wildcards.task} --source {params.source} --output $(dirname {output.source})")


# What a task asks of a model, in its tokens; the same for every method.
rule requests:
    input:
        model=rules.fetch_model.output,
        task=rules.fetch_task.output.rows,
        source=rules.fetch_task.output.source,
    output:
        requests="results/requests/{model}/{task}.parquet",
        drawn="results/requests/{model}/{task}.json",
    log:
        "<logs>/requests/{model}/{task}.log",
    benchmark:
        "<benchmarks>/requests/{model}/{task}.tsv"
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        limit=f"--limit {EXPERIMENT.zero_shot.limit}" if EXPERIMENT.zero_shot.limit else "",
        seed=EXPERIMENT.zero_shot.seed,
        code=code_hash("requests"),
    shell:
        altq(
            "requests",
            "--model $(dirname {input.model}) --task {wildcards.task} --items $(dirname {input.task})",
            "{params.limit} --seed {params.seed} --output {output.requests}",
        )


# Windows of the calibration text at random places, a draw for each seed.
rule calibration_tokens:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.calibration,
    output:
        tokens="results/tokens/{model}/{corpus}/<split>-seed{seed}.npy",
        drawn="results/tokens/{model}/{corpus}/<split>-seed{seed}.json",
    log:
        "<logs>/<split>_tokens/{model}/{corpus}-seed{seed}.log",
    benchmark:
        "<benchmarks>/<split>_tokens/{model}/{corpus}-seed{seed}.tsv"
    pathvars:
        split="calibration",
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        windows=CALIBRATION_WINDOWS,
        seed=lambda wildcards: f"--seed {wildcards.seed}",
        code=code_hash("tokens"),
    shell:
        altq(
            "tokens",
            "{params.windows} {params.seed} --model $(dirname {input.model}) --corpus $(dirname {input.text})",
            "--output {output.tokens}",
        )


# Windows beside these, to judge what was calibrated on them.
use rule calibration_tokens as held_out_tokens with:
    pathvars:
        split="held_out",
    params:
        windows=f"{CALIBRATION_WINDOWS} --held-out {EXPERIMENT.selection.held_out_windows}",


# The first windows of the test text.
use rule calibration_tokens as test_tokens with:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.test,
    output:
        tokens="results/tokens/{model}/{corpus}/test.npy",
        drawn="results/tokens/{model}/{corpus}/test.json",
    log:
        "<logs>/test_tokens/{model}/{corpus}.log",
    benchmark:
        "<benchmarks>/test_tokens/{model}/{corpus}.tsv"
    params:
        windows=TEST_WINDOWS,
        seed="",
