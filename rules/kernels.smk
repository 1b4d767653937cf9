# The kernels: what they reach on this machine, and what the compiler makes of those for GPUs.

# All cores of the workflow; on a cluster, which has no such number, a good part of a node.
ALL_CORES = workflow.global_resources.get("_cores").value or 16


# Speed on the CPU; it takes all cores of the workflow, so that nothing runs beside it.
rule benchmark_cpu:
    output:
        csv="results/kernels/cpu.csv",
        machine="results/kernels/cpu.json",
    log:
        "results/logs/benchmark_cpu.log",
    benchmark:
        "results/benchmarks/benchmark_cpu.tsv"
    params:
        flags=f"--device cpu --rounds {EXPERIMENT.kernels.rounds}",
        code=code_hash("altq.commands.benchmark"),
    threads: ALL_CORES
    resources:
        **NEEDS.resources("benchmark_cpu"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq benchmark --threads 1 {params.flags} --output {output.csv} 2> >(tee {log} >&2)"


# Speed on a GPU, where the configuration says that there is one.
rule benchmark_gpu:
    output:
        csv="results/kernels/gpu.csv",
        machine="results/kernels/gpu.json",
    log:
        "results/logs/benchmark_gpu.log",
    benchmark:
        "results/benchmarks/benchmark_gpu.tsv"
    params:
        flags=f"--device gpu --rounds {EXPERIMENT.kernels.rounds}",
        code=code_hash("altq.commands.benchmark"),
    threads: ALL_CORES
    resources:
        **NEEDS.resources("benchmark_gpu"),
        gpu=1,
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq benchmark {params.flags} --output {output.csv} 2> >(tee {log} >&2)"


# Registers, spills, shared memory and instructions of every GPU kernel on four targets.
rule compiled:
    output:
        csv=report("results/kernels/compiled.csv", caption="captions/compiled.rst", category="Kernels"),
        record="results/kernels/compiled.json",
    log:
        "results/logs/compiled.log",
    benchmark:
        "results/benchmarks/compiled.tsv"
    params:
        code=code_hash("altq.commands.compiled"),
    threads: 1
    resources:
        **NEEDS.resources("compiled"),
    conda:
        "../envs/quantize.yaml"
    shell:
        "python3 -m altq compiled --threads {threads} --output {output.csv} 2> >(tee {log} >&2)"


# Table 5: speed-ups of a decoder layer.
rule table5:
    input:
        results=[
            rules.benchmark_cpu.output.csv,
            *([rules.benchmark_gpu.output.csv] if EXPERIMENT.kernels.gpu else []),
        ],
        compiled=rules.compiled.output.csv,
    output:
        csv=report(
            "results/table5.csv", caption="captions/table5.rst", category="Tables", labels={"table": "5", "as": "CSV"}
        ),
        png=report(
            "results/table5.png", caption="captions/table5.rst", category="Tables", labels={"table": "5", "as": "image"}
        ),
        markdown="results/table5.md",
        latex="results/table5.tex",
        record="results/table5.json",
    log:
        "results/logs/table5.log",
    benchmark:
        "results/benchmarks/table5.tsv"
    params:
        code=code_hash("altq.commands.table5"),
    threads: 1
    resources:
        **NEEDS.resources("table5"),
    conda:
        "../envs/report.yaml"
    shell:
        "python3 -m altq table5 --threads {threads} --results {input.results} --output {output.csv} "
        "2> >(tee {log} >&2)"
