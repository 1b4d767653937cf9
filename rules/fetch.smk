# Models, corpora, tasks and tokens.


# A model as one verified folder, wherever it comes from.
rule fetch_model:
    output:
        "results/models/{model}/source.json",
    log:
        "results/logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/fetch_model/{model}.tsv"
    params:
        flags=lambda wildcards: source_flags(EXPERIMENT.models[wildcards.model]),
        code=code_hash("altq.commands.fetch_model"),
    threads: 1
    resources:
        **NEEDS.resources("fetch_model"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq fetch-model --threads {threads} --source {params.flags} "
        "--output results/models/{wildcards.model} 2> >(tee {log} >&2)"


# The calibration text and the test text of a corpus.
rule fetch_corpus:
    output:
        calibration="results/corpora/{corpus}/calibration.txt",
        test="results/corpora/{corpus}/test.txt",
        source="results/corpora/{corpus}/source.json",
    log:
        "results/logs/fetch_corpus/{corpus}.log",
    benchmark:
        "results/benchmarks/fetch_corpus/{corpus}.tsv"
    params:
        flags=lambda wildcards: source_flags(EXPERIMENT.corpora[wildcards.corpus]),
        code=code_hash("altq.commands.fetch_corpus"),
    threads: 1
    resources:
        **NEEDS.resources("fetch_corpus"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq fetch-corpus --threads {threads} --source {params.flags} "
        "--output results/corpora/{wildcards.corpus} 2> >(tee {log} >&2)"


# The items of a zero-shot task.
rule fetch_task:
    output:
        rows="results/tasks/{task}/items.parquet",
        source="results/tasks/{task}/source.json",
    log:
        "results/logs/fetch_task/{task}.log",
    benchmark:
        "results/benchmarks/fetch_task/{task}.tsv"
    params:
        flags=lambda wildcards: source_flags(EXPERIMENT.tasks[wildcards.task]),
        code=code_hash("altq.commands.fetch_task"),
    threads: 1
    resources:
        **NEEDS.resources("fetch_task"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq fetch-task --threads {threads} --task {wildcards.task} --source {params.flags} "
        "--output results/tasks/{wildcards.task} 2> >(tee {log} >&2)"


# What a task asks of a model, in its tokens; the same for every method.
rule requests:
    input:
        model=rules.fetch_model.output,
        task=rules.fetch_task.output,
    output:
        requests="results/requests/{model}/{task}.parquet",
        drawn="results/requests/{model}/{task}.json",
    log:
        "results/logs/requests/{model}/{task}.log",
    benchmark:
        "results/benchmarks/requests/{model}/{task}.tsv"
    params:
        flags=f"--seed {EXPERIMENT.zero_shot.seed}"
        + (f" --limit {EXPERIMENT.zero_shot.limit}" if EXPERIMENT.zero_shot.limit else ""),
        code=code_hash("altq.commands.requests"),
    threads: 1
    resources:
        **NEEDS.resources("requests"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq requests --threads {threads} --model results/models/{wildcards.model} --task {wildcards.task} "
        "--items results/tasks/{wildcards.task} {params.flags} --output {output.requests} 2> >(tee {log} >&2)"


# Windows of the calibration text at random places, a draw for each seed.
rule calibration_tokens:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.calibration,
    output:
        tokens="results/tokens/{model}/{corpus}/calibration-seed{seed}.npy",
        drawn="results/tokens/{model}/{corpus}/calibration-seed{seed}.json",
    log:
        "results/logs/calibration_tokens/{model}/{corpus}-seed{seed}.log",
    benchmark:
        "results/benchmarks/calibration_tokens/{model}/{corpus}-seed{seed}.tsv"
    params:
        flags=f"--num-windows {EXPERIMENT.calibration.num_windows} "
        f"--window-length {EXPERIMENT.calibration.window_length}",
        code=code_hash("altq.commands.tokens"),
    threads: 1
    resources:
        **NEEDS.resources("calibration_tokens"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq tokens --threads {threads} --split calibration --seed {wildcards.seed} {params.flags} "
        "--model results/models/{wildcards.model} --corpus results/corpora/{wildcards.corpus} "
        "--output {output.tokens} 2> >(tee {log} >&2)"


# Windows beside these, to judge what was calibrated on them.
rule held_out_tokens:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.calibration,
    output:
        tokens="results/tokens/{model}/{corpus}/held_out-seed{seed}.npy",
        drawn="results/tokens/{model}/{corpus}/held_out-seed{seed}.json",
    log:
        "results/logs/held_out_tokens/{model}/{corpus}-seed{seed}.log",
    benchmark:
        "results/benchmarks/held_out_tokens/{model}/{corpus}-seed{seed}.tsv"
    params:
        flags=f"--num-windows {EXPERIMENT.calibration.num_windows} --held-out {EXPERIMENT.selection.held_out_windows} "
        f"--window-length {EXPERIMENT.calibration.window_length}",
        code=code_hash("altq.commands.tokens"),
    threads: 1
    resources:
        **NEEDS.resources("held_out_tokens"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq tokens --threads {threads} --split calibration --seed {wildcards.seed} {params.flags} "
        "--model results/models/{wildcards.model} --corpus results/corpora/{wildcards.corpus} "
        "--output {output.tokens} 2> >(tee {log} >&2)"


# The first windows of the test text.
rule test_tokens:
    input:
        model=rules.fetch_model.output,
        text=rules.fetch_corpus.output.test,
    output:
        tokens="results/tokens/{model}/{corpus}/test.npy",
        drawn="results/tokens/{model}/{corpus}/test.json",
    log:
        "results/logs/test_tokens/{model}/{corpus}.log",
    benchmark:
        "results/benchmarks/test_tokens/{model}/{corpus}.tsv"
    params:
        flags=(
            f"--window-length {EXPERIMENT.evaluation.window_length}"
            + (f" --num-windows {EXPERIMENT.evaluation.num_windows}" if EXPERIMENT.evaluation.num_windows else "")
        ),
        code=code_hash("altq.commands.tokens"),
    threads: 1
    resources:
        **NEEDS.resources("test_tokens"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq tokens --threads {threads} --split test {params.flags} "
        "--model results/models/{wildcards.model} --corpus results/corpora/{wildcards.corpus} "
        "--output {output.tokens} 2> >(tee {log} >&2)"
