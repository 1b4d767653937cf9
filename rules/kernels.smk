# The kernels: what they reach on this machine, and what the compiler makes of those for GPUs.


# Speed on the CPU; it takes all cores of the workflow (on a cluster, which has no such number, a good part of a node), so
# that nothing runs beside it, and times one thread.
rule benchmark_cpu:
    output:
        csv="results/kernels/<device>.csv",
        machine="results/kernels/<device>.json",
    log:
        "<logs>/benchmark_<device>.log",
    benchmark:
        "<benchmarks>/benchmark_<device>.tsv"
    pathvars:
        device="cpu",
    conda:
        QUANTIZE
    threads: workflow.global_resources.get("_cores").value or 16
    resources:
        **NEEDS.resources,
    params:
        device=f"--device cpu --rounds {EXPERIMENT.kernels.rounds}",
        code=code_hash("benchmark"),
    shell:
        altq("benchmark", "{params.device} --output {output.csv}", threads=1)


# Speed on a GPU, where the configuration says that there is one.
use rule benchmark_cpu as benchmark_gpu with:
    pathvars:
        device="gpu",
    resources:
        **(NEEDS.resources | {"gpu": 1}),
    params:
        device=f"--device gpu --rounds {EXPERIMENT.kernels.rounds}",


# Registers, spills, shared memory and instructions of every GPU kernel on four targets.
rule compiled:
    output:
        csv=report("results/kernels/compiled.csv", caption="captions/compiled.rst", category="Kernels"),
        record="results/kernels/compiled.json",
    log:
        "<logs>/compiled.log",
    benchmark:
        "<benchmarks>/compiled.tsv"
    conda:
        QUANTIZE
    resources:
        **NEEDS.resources,
    params:
        code=code_hash("compiled"),
    shell:
        altq("compiled", "--output {output.csv}")
