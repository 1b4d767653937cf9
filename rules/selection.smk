# Selections: a kind for each sublayer. They are files, so that none needs a calibration of its own.


# One kind everywhere; the policy is named after it.
rule select_one_kind:
    output:
        "results/selections/{model}/{policy}.json",
    log:
        "results/logs/select/{model}/{policy}.log",
    benchmark:
        "results/benchmarks/select/{model}/{policy}.tsv"
    wildcard_constraints:
        policy="|".join(KINDS),
    params:
        flags=lambda wildcards: f"--num-blocks {EXPERIMENT.models[wildcards.model].num_blocks}",
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        **NEEDS.resources("select_one_kind"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy {wildcards.policy} --model-name {wildcards.model} "
        "{params.flags} --output {output} 2> >(tee {log} >&2)"


# Candidates at equal shares, drawn; the number is the seed.
rule select_at_random:
    output:
        "results/selections/{model}/random{number}.json",
    log:
        "results/logs/select/{model}/random{number}.log",
    benchmark:
        "results/benchmarks/select/{model}/random{number}.tsv"
    params:
        flags=lambda wildcards: f"--num-blocks {EXPERIMENT.models[wildcards.model].num_blocks} "
        f"--candidates {' '.join(EXPERIMENT.selection.candidates)}",
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        **NEEDS.resources("select_at_random"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy random --seed {wildcards.number} "
        "--model-name {wildcards.model} {params.flags} --output {output} 2> >(tee {log} >&2)"


# The outlier-guided heuristic (Eq. 8-15) as configured, and at every point of Table 6.
rule select_by_heuristic:
    input:
        rules.statistics.output,
    output:
        "results/selections/{model}/{policy}.json",
    log:
        "results/logs/select/{model}/{policy}.log",
    benchmark:
        "results/benchmarks/select/{model}/{policy}.tsv"
    wildcard_constraints:
        policy=r"heuristic|grid\d+",
    params:
        flags=lambda wildcards: to_flags(EXPERIMENT.grid.named.get(wildcards.policy, EXPERIMENT.selection.heuristic)),
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        **NEEDS.resources("select_by_heuristic"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy heuristic --statistics {input} {params.flags} "
        "--output {output} 2> >(tee {log} >&2)"


# Differentiable search (Eq. 5-7); it goes on where it was stopped.
rule search:
    input:
        model=rules.fetch_model.output,
        states="results/states/{model}/seed{seed}/states.json",
    output:
        "results/scores/{model}/{setting}/seed{seed}/learned/scores.json",
    log:
        "results/logs/search/{model}/{setting}/seed{seed}.log",
    benchmark:
        "results/benchmarks/search/{model}/{setting}/seed{seed}.tsv"
    params:
        flags=f"--candidates {' '.join(EXPERIMENT.selection.candidates)} {to_flags(EXPERIMENT.recipe)} "
        f"--search {shlex.quote(EXPERIMENT.selection.search.model_dump_json())}",
        code=code_hash("altq.commands.search"),
    threads: NEEDS.threads_of("search")
    resources:
        **NEEDS.resources("search"),
    retries: 1
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq search --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --setting {wildcards.setting} --seed {wildcards.seed} {params.flags} "
        "--output $(dirname {output}) 2> >(tee {log} >&2)"


# The error of every candidate's bank (oracle), or of the same with a tenth of the steps (probe), on held-out tokens.
rule reconstruction:
    input:
        model=rules.fetch_model.output,
        tokens=f"results/tokens/{{model}}/{EXPERIMENT.calibration.corpus}/held_out-seed{{seed}}.npy",
        banks=lambda wildcards: expand(
            "results/bank/{{model}}/{{setting}}/seed{{seed}}/{prefix}{kind}/index.json",
            prefix=PROBE if wildcards.policy == "probe" else "",
            kind=EXPERIMENT.selection.candidates,
        ),
    output:
        "results/scores/{model}/{setting}/seed{seed}/{policy}/scores.json",
    log:
        "results/logs/reconstruction/{model}/{setting}/seed{seed}/{policy}.log",
    benchmark:
        "results/benchmarks/reconstruction/{model}/{setting}/seed{seed}/{policy}.tsv"
    wildcard_constraints:
        policy="oracle|probe",
    params:
        kinds=EXPERIMENT.selection.candidates,
        flags=f"--loss {EXPERIMENT.calibration.loss}",
        code=code_hash("altq.commands.reconstruction"),
    threads: NEEDS.threads_of("reconstruction")
    resources:
        **NEEDS.resources("reconstruction"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq reconstruction --threads {threads} --model results/models/{wildcards.model} "
        "--tokens {input.tokens} --setting {wildcards.setting} {params.flags} "
        "$(kinds=({params.kinds}); for index in {input.banks}; do "
        "echo --bank ${{kinds[$((i++))]}}=$(dirname $index); done) --output {output} 2> >(tee {log} >&2)"


# What concentration and alignment promise of every candidate, from second moments alone.
rule predict:
    input:
        model=rules.fetch_model.output,
        states="results/states/{model}/seed{seed}/states.json",
    output:
        "results/scores/{model}/{setting}/seed{seed}/predicted/scores.json",
    log:
        "results/logs/predict/{model}/{setting}/seed{seed}.log",
    benchmark:
        "results/benchmarks/predict/{model}/{setting}/seed{seed}.tsv"
    params:
        flags=f"--candidates {' '.join(EXPERIMENT.selection.candidates)} {to_flags(EXPERIMENT.recipe)}",
        code=code_hash("altq.commands.predict"),
    threads: NEEDS.threads_of("predict")
    resources:
        **NEEDS.resources("predict"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq predict --threads {threads} --model results/models/{wildcards.model} "
        "--states $(dirname {input.states}) --setting {wildcards.setting} --seed {wildcards.seed} {params.flags} "
        "--output {output} 2> >(tee {log} >&2)"


# The candidate with the best score at each sublayer.
rule select_by_scores:
    input:
        "results/scores/{model}/{setting}/seed{seed}/{policy}/scores.json",
    output:
        "results/selections/{model}/{setting}/seed{seed}/{policy}.json",
    log:
        "results/logs/select/{model}/{setting}/seed{seed}/{policy}.log",
    benchmark:
        "results/benchmarks/select/{model}/{setting}/seed{seed}/{policy}.tsv"
    wildcard_constraints:
        policy="learned|oracle|probe|predicted",
    params:
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        **NEEDS.resources("select_by_scores"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy {wildcards.policy} --scores {input} --output {output} "
        "2> >(tee {log} >&2)"


# The best of Table 1's random selections, judged by the first seed for all seeds.
rule select_best_random:
    input:
        results=expand(
            "results/perplexity/{{model}}/{method}/{{setting}}/{weights}/seed{seed}/{corpus}.json",
            method=EXPERIMENT.random_methods,
            weights=EXPERIMENT.rounding.weights,
            seed=EXPERIMENT.seeds[0],
            corpus=EXPERIMENT.corpora,
        ),
        selections=expand("results/selections/{{model}}/{method}.json", method=EXPERIMENT.random_methods),
    output:
        "results/selections/{model}/{setting}/seed{seed}/best_random.json",
    log:
        "results/logs/select/{model}/{setting}/seed{seed}/best_random.log",
    benchmark:
        "results/benchmarks/select/{model}/{setting}/seed{seed}/best_random.tsv"
    params:
        code=code_hash("altq.commands.select"),
    threads: 1
    resources:
        **NEEDS.resources("select_best_random"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq select --threads {threads} --policy best_random --results {input.results} "
        "--selections {input.selections} --output {output} 2> >(tee {log} >&2)"


# Which points of Table 6 select alike: each selection is assembled once, under the name of the first that makes it.
checkpoint distinct:
    input:
        expand(
            "results/selections/{{model}}/{policy}.json",
            policy=["affine", "rotation", "heuristic", *EXPERIMENT.grid.named],
        ),
    output:
        "results/selections/{model}/distinct.json",
    log:
        "results/logs/distinct/{model}.log",
    benchmark:
        "results/benchmarks/distinct/{model}.tsv"
    params:
        code=code_hash("altq.commands.distinct"),
    threads: 1
    resources:
        **NEEDS.resources("distinct"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq distinct --threads {threads} --selections {input} --output {output} 2> >(tee {log} >&2)"


def selection_of(wildcards):
    """The selection file of a method; what was measured lies below its setting and seed."""
    policy = method_of(wildcards.method).policy
    place = "{model}/{setting}/seed{seed}" if policy in MEASURED else "{model}"
    return f"results/selections/{place}/{policy}.json"
