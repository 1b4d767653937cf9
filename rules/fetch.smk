# Models, corpora, tasks and tokens.


# A model as one verified folder, wherever it comes from.
rule fetch_model:
    output:
        "results/models/{model}/source.json",
    log:
        log_of("fetch_model/{model}"),
    benchmark:
        benchmark_of("fetch_model/{model}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("fetch_model"),
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
        log_of("fetch_corpus/{corpus}"),
    benchmark:
        benchmark_of("fetch_corpus/{corpus}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("fetch_corpus"),
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
        log_of("fetch_task/{task}"),
    benchmark:
        benchmark_of("fetch_task/{task}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("fetch_task"),
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
        log_of("requests/{model}/{task}"),
    benchmark:
        benchmark_of("requests/{model}/{task}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("requests"),
    params:
        limit=f"--limit {EXPERIMENT.zero_shot.limit}" if EXPERIMENT.zero_shot.limit else "",
        seed=EXPERIMENT.zero_shot.seed,
        code=code_hash("requests"),
    shell:
        altq(
            "requests",
            "--model $(dirname {input.model}) --task {wildcards.task} --items $(dirname {input.task}) "
            "{params.limit} --seed {params.seed} --output {output.requests}",
        )


# Windows of the calibration text at random places, a draw for each seed.
rule calibration_tokens:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.calibration,
    output:
        tokens="results/tokens/{model}/{corpus}/calibration-seed{seed}.npy",
        drawn="results/tokens/{model}/{corpus}/calibration-seed{seed}.json",
    log:
        log_of("calibration_tokens/{model}/{corpus}-seed{seed}"),
    benchmark:
        benchmark_of("calibration_tokens/{model}/{corpus}-seed{seed}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("calibration_tokens"),
    params:
        windows=f"--split calibration --num-windows {EXPERIMENT.calibration.num_windows} "
        f"--window-length {EXPERIMENT.calibration.window_length}",
        seed=lambda wildcards: f"--seed {wildcards.seed}",
        code=code_hash("tokens"),
    shell:
        altq(
            "tokens",
            "{params.windows} {params.seed} --model $(dirname {input.model}) --corpus $(dirname {input.text}) "
            "--output {output.tokens}",
        )


# Windows beside these, to judge what was calibrated on them.
use rule calibration_tokens as held_out_tokens with:
    output:
        tokens="results/tokens/{model}/{corpus}/held_out-seed{seed}.npy",
        drawn="results/tokens/{model}/{corpus}/held_out-seed{seed}.json",
    log:
        log_of("held_out_tokens/{model}/{corpus}-seed{seed}"),
    benchmark:
        benchmark_of("held_out_tokens/{model}/{corpus}-seed{seed}")
    params:
        windows=f"--split calibration --num-windows {EXPERIMENT.calibration.num_windows} "
        f"--window-length {EXPERIMENT.calibration.window_length} --held-out {EXPERIMENT.selection.held_out_windows}",
        seed=lambda wildcards: f"--seed {wildcards.seed}",
        code=code_hash("tokens"),


# The first windows of the test text.
use rule calibration_tokens as test_tokens with:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.test,
    output:
        tokens="results/tokens/{model}/{corpus}/test.npy",
        drawn="results/tokens/{model}/{corpus}/test.json",
    log:
        log_of("test_tokens/{model}/{corpus}"),
    benchmark:
        benchmark_of("test_tokens/{model}/{corpus}")
    params:
        windows=f"--split test --window-length {EXPERIMENT.evaluation.window_length}"
        + (f" --num-windows {EXPERIMENT.evaluation.num_windows}" if EXPERIMENT.evaluation.num_windows else ""),
        seed="",
        code=code_hash("tokens"),
