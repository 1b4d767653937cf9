# Selections: a kind for each sublayer. They are files, so that none needs a calibration of its own.


def is_heuristic(policy):
    return policy == "heuristic" or policy in EXPERIMENT.grid.named


def policy_flags(wildcards):
    """How a policy that measures nothing at a setting chooses."""
    policy = wildcards.policy
    if is_heuristic(policy):
        return f"--policy heuristic {to_flags(EXPERIMENT.grid.named.get(policy, EXPERIMENT.selection.heuristic))}"
    blocks = f"--model-name {wildcards.model} --num-blocks {EXPERIMENT.models[wildcards.model].num_blocks}"
    if policy in KINDS:
        return f"--policy {policy} {blocks}"
    candidates = " ".join(EXPERIMENT.selection.candidates)
    return f"--policy random --seed {policy.removeprefix('random')} --candidates {candidates} {blocks}"


# One kind everywhere, candidates drawn at equal shares, or the outlier-guided heuristic (Eq. 8-15), as configured and at
# every point of Table 6.
rule select:
    input:
        lambda wildcards: rules.statistics.output if is_heuristic(wildcards.policy) else [],
    output:
        "results/selections/{model}/{policy}.json",
    log:
        log_of("select/{model}/{policy}"),
    benchmark:
        benchmark_of("select/{model}/{policy}")
    wildcard_constraints:
        policy=rf"{'|'.join(KINDS)}|random\d+|heuristic|grid\d+",
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("select"),
    params:
        policy=policy_flags,
        statistics=lambda wildcards, input: f"--statistics {input}" if input else "",
        code=code_hash("select"),
    shell:
        altq("select", "{params.policy} {params.statistics} --output {output}")


# Differentiable search (Eq. 5-7); it goes on where it was stopped.
rule search:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        "results/scores/{model}/{setting}/seed{seed}/learned/scores.json",
    log:
        log_of("search/{model}/{setting}/seed{seed}"),
    benchmark:
        benchmark_of("search/{model}/{setting}/seed{seed}")
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("search")
    resources:
        **NEEDS.resources("search"),
    params:
        options=verbatim(
            f"--candidates {' '.join(EXPERIMENT.selection.candidates)} {to_flags(EXPERIMENT.recipe)} "
            f"--search {shlex.quote(EXPERIMENT.selection.search.model_dump_json())}"
        ),
        code=code_hash("search"),
    shell:
        altq(
            "search",
            "--model $(dirname {input.model}) --states $(dirname {input.states}) --setting {wildcards.setting} "
            "--seed {wildcards.seed} {params.options} --output $(dirname {output})",
        )


# The error of every candidate's bank (oracle), or of the same with a tenth of the steps (probe), on held-out tokens.
rule reconstruction:
    input:
        model=rules.fetch_model.output,
        tokens=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/held_out-seed{{seed}}.npy",
        banks=lambda wildcards: expand(
            rules.calibrate.output,
            bank=[f"{PROBE if wildcards.policy == 'probe' else ''}{kind}" for kind in EXPERIMENT.selection.candidates],
            allow_missing=True,
        ),
    output:
        f"results/scores/{SCORES}/scores.json",
    log:
        log_of(f"reconstruction/{SCORES}"),
    benchmark:
        benchmark_of(f"reconstruction/{SCORES}")
    wildcard_constraints:
        policy="oracle|probe",
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("reconstruction")
    resources:
        **NEEDS.resources("reconstruction"),
    params:
        loss=EXPERIMENT.calibration.loss,
        code=code_hash("reconstruction"),
    shell:
        altq(
            "reconstruction",
            "--model $(dirname {input.model}) --tokens {input.tokens} --setting {wildcards.setting} "
            "--loss {params.loss} --banks $(dirname {input.banks}) --output {output}",
        )


# What concentration and alignment promise of every candidate, from second moments alone.
rule predict:
    input:
        model=rules.fetch_model.output,
        states=rules.states.output,
    output:
        "results/scores/{model}/{setting}/seed{seed}/predicted/scores.json",
    log:
        log_of("predict/{model}/{setting}/seed{seed}"),
    benchmark:
        benchmark_of("predict/{model}/{setting}/seed{seed}")
    conda:
        QUANTIZE
    threads: NEEDS.threads_of("predict")
    resources:
        **NEEDS.resources("predict"),
    params:
        options=verbatim(f"--candidates {' '.join(EXPERIMENT.selection.candidates)} {to_flags(EXPERIMENT.recipe)}"),
        code=code_hash("predict"),
    shell:
        altq(
            "predict",
            "--model $(dirname {input.model}) --states $(dirname {input.states}) --setting {wildcards.setting} "
            "--seed {wildcards.seed} {params.options} --output {output}",
        )


# The candidate with the best score at each sublayer.
rule select_by_scores:
    input:
        scores=f"results/scores/{SCORES}/scores.json",
    output:
        f"results/selections/{SCORES}.json",
    log:
        log_of(f"select/{SCORES}"),
    benchmark:
        benchmark_of(f"select/{SCORES}")
    wildcard_constraints:
        policy="learned|oracle|probe|predicted",
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("select_by_scores"),
    params:
        read=lambda wildcards, input: f"--scores {input.scores}",
        code=code_hash("select"),
    shell:
        altq("select", "--policy {wildcards.policy} {params.read} --output {output}")


# The best of Table 1's random selections, judged by the first seed for all seeds.
use rule select_by_scores as select_best_random with:
    input:
        results=expand(
            f"results/perplexity/{CHECKPOINT}/{{corpus}}.json",
            method=EXPERIMENT.random_methods,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds[0],
            corpus=EXPERIMENT.corpora,
            allow_missing=True,
        ),
        selections=expand(rules.select.output, policy=EXPERIMENT.random_methods, allow_missing=True),
    wildcard_constraints:
        policy="best_random",
    params:
        read=lambda wildcards, input: f"--results {input.results} --selections {input.selections}",
        code=code_hash("select"),


# Which points of Table 6 select alike: each selection is assembled once, under the name of the first that makes it.
checkpoint distinct:
    input:
        expand(
            rules.select.output,
            policy=["affine", "rotation", "heuristic", *EXPERIMENT.grid.named],
            allow_missing=True,
        ),
    output:
        "results/selections/{model}/distinct.json",
    log:
        log_of("distinct/{model}"),
    benchmark:
        benchmark_of("distinct/{model}")
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources("distinct"),
    params:
        code=code_hash("distinct"),
    shell:
        altq("distinct", "--selections {input} --output {output}")


def selection_of(wildcards):
    """The selection file of a method; what was measured lies below its setting and seed."""
    policy = method_of(wildcards.method).policy
    place = "{model}/{setting}/seed{seed}" if policy in MEASURED_POLICIES else "{model}"
    return f"results/selections/{place}/{policy}.json"
