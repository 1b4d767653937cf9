# Selections: a kind for each sublayer. They are files, so that none needs a calibration of its own.
# What takes a second (localrule) runs where Snakemake itself does.


# One kind everywhere, candidates drawn at equal shares, or the outlier-guided heuristic (Eq. 8-15), as configured and at
# every point of Table 6.
rule select:
    input:
        lambda wildcards: rules.statistics.output if is_heuristic(wildcards.policy) else [],
    output:
        "results/selections/{model}/{policy}.json",
    log:
        "<logs>/select/{model}/{policy}.log",
    benchmark:
        "<benchmarks>/select/{model}/{policy}.tsv"
    wildcard_constraints:
        policy=rf"{'|'.join(KINDS)}|random\d+|heuristic|grid\d+",
    localrule: True
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
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
        "<logs>/search/{model}/{setting}/seed{seed}.log",
    benchmark:
        "<benchmarks>/search/{model}/{setting}/seed{seed}.tsv"
    retries: 1
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        options=verbatim(
            f"{CANDIDATES} {to_flags(EXPERIMENT.recipe)} "
            f"--search {shlex.quote(EXPERIMENT.selection.search.model_dump_json())}"
        ),
        code=code_hash("search"),
    shell:
        altq("search", ON_STATES, "{params.options} --output $(dirname {output})")


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
        f"<logs>/reconstruction/{SCORES}.log",
    benchmark:
        f"<benchmarks>/reconstruction/{SCORES}.tsv"
    wildcard_constraints:
        policy="oracle|probe",
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
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
        "<logs>/predict/{model}/{setting}/seed{seed}.log",
    benchmark:
        "<benchmarks>/predict/{model}/{setting}/seed{seed}.tsv"
    conda:
        QUANTIZE
    threads: NEEDS.threads_of_job
    resources:
        **NEEDS.resources,
    params:
        options=verbatim(f"{CANDIDATES} {to_flags(EXPERIMENT.recipe)}"),
        code=code_hash("predict"),
    shell:
        altq("predict", ON_STATES, "{params.options} --output {output}")


# The candidate with the best score at each sublayer.
rule select_by_scores:
    input:
        scores=f"results/scores/{SCORES}/scores.json",
    output:
        f"results/selections/{SCORES}.json",
    log:
        f"<logs>/select/{SCORES}.log",
    benchmark:
        f"<benchmarks>/select/{SCORES}.tsv"
    wildcard_constraints:
        policy="learned|oracle|probe|predicted",
    localrule: True
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        read=lambda wildcards, input: flags_of(input),
        code=code_hash("select"),
    shell:
        altq("select", "--policy {wildcards.policy} {params.read} --output {output}")


# The best of Table 1's random selections, judged by the first seed for all seeds.
use rule select_by_scores as select_best_random with:
    input:
        results=lambda wildcards: expand(
            rules.perplexity.output,
            method=EXPERIMENT.random_methods,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds[0],
            corpus=EXPERIMENT.corpora,
            allow_missing=True,
        ),
        selections=expand(rules.select.output, policy=EXPERIMENT.random_methods, allow_missing=True),
    wildcard_constraints:
        policy="best_random",
    localrule: True


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
        "<logs>/distinct/{model}.log",
    benchmark:
        "<benchmarks>/distinct/{model}.tsv"
    localrule: True
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        code=code_hash("distinct"),
    shell:
        altq("distinct", "--selections {input} --output {output}")
