"""Print what an experiment will take before it runs: jobs, minutes, memory, disk and the critical path of every stage.

Reads a configuration file; no weights are needed, only the shape of each model (from its config.json where it is
fetched, or from `shape:` in the configuration). Jobs are those of Snakemake's dry run, all of them or, with --remaining,
those that are left to do in --directory. Writes nothing. Times are of idle processors as fast as those of
docs/scaling.md, and of one H100 where a stage uses a GPU.

  altq plan config.yaml
  altq plan configs/paper.yaml --cores 128 --gpus 8 --memory 1000
  altq plan config.yaml results/table3.csv --directory runs/mine --remaining
"""

import argparse
import os
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="?", default=Path("config.yaml"), help="configuration file (YAML)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="files or rules to plan (default: all)")
    parser.add_argument("--directory", type=Path, default=Path(), help="where the experiment runs (default: here)")
    parser.add_argument("--remaining", action="store_true", help="only what is not done there yet")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, metavar="N", help="cores (default: here)")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs (default: 0)")
    parser.add_argument("--memory", type=float, metavar="GB", help="main memory of all jobs together (default: here)")
    parser.add_argument("--gpu-memory", type=float, default=80, metavar="GB", help="of one GPU (default: 80)")
    parser.add_argument(
        "--use-gpus-everywhere", action="store_true", help="as if every numeric stage could use a GPU, which it cannot"
    )


def run(arguments: argparse.Namespace) -> None:
    from altq.commands.config import read_experiment
    from altq.resources.dry_run import list_jobs
    from altq.resources.needs import NUMERIC, Needs
    from altq.resources.plan import plan_jobs, to_text
    from altq.resources.stages import ON_A_GPU

    if arguments.cores < 1 or arguments.gpus < 0:
        raise ValueError(f"--cores {arguments.cores} --gpus {arguments.gpus}: give 1 core or more, and 0 GPUs or more")
    experiment = read_experiment(arguments.file)
    memory = arguments.memory * 1e9 if arguments.memory else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    what = {"cores": arguments.cores, "gpus": arguments.gpus, "remaining": arguments.remaining}
    jobs = list_jobs(arguments.file, arguments.directory, arguments.targets, **what)
    gpu_stages = NUMERIC if arguments.use_gpus_everywhere else ON_A_GPU
    needs = Needs(experiment, arguments.directory, arguments.gpus, gpu_stages)
    planned = plan_jobs(needs, jobs)
    machine = (arguments.cores, arguments.gpus, memory, arguments.gpu_memory * 1e9)
    print(to_text(needs, planned, *machine), end="")
