"""Checks of what a run needs on this machine, each with its finding and the command that mends it."""

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from altq.experiment.experiment import Experiment
from altq.resources.checks import MISSING, NOTE, OK, Check
from altq.resources.dry_run import list_jobs
from altq.resources.gpu_checks import check_gpu_memory, check_gpus
from altq.resources.needs import Needs
from altq.resources.plan import plan_jobs
from altq.runtime.code_hash import ROOT
from altq.runtime.cores import usable_cores
from altq.runtime.gpu import list_devices
from altq.sources.wheel import default_cache

HUB = ("huggingface.co", 443)
INSTALL = "pip install -c constraints.txt -e ."


def check_machine() -> Iterator[Check]:
    """Check versions, compiler, devices, caches and SLURM."""
    version_parts = platform.python_version_tuple()
    good = tuple(map(int, version_parts[:2])) >= (3, 11)
    yield Check(
        name="Python",
        state=OK if good else MISSING,
        finding=platform.python_version(),
        remedy="" if good else "use Python 3.11 or later",
    )
    yield check_versions()
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    yield (
        Check("C compiler", OK, compiler)
        if compiler
        else Check(
            name="C compiler",
            state=MISSING,
            finding="no cc, gcc or clang on PATH",
            remedy="apt-get install build-essential",
        )
    )
    yield from check_gpus()
    yield check_cache()
    yield check_slurm()


def check_versions() -> Check:
    """Check that every package of pyproject.toml is installed, in an accepted version and in the pinned one."""
    project = ROOT.parent / "pyproject.toml"
    if not project.is_file():
        return Check("packages", NOTE, f"{project} is missing, so that there is nothing to compare with")
    required = [requirement for line in _dependencies(project) if _applies(requirement := Requirement(line))]
    pins = _pins(project.with_name("constraints.txt"))
    unusable, unpinned = [], []
    for requirement in required:
        try:
            # A build's own label (2.13.0+cpu) is no other version.
            installed = version(requirement.name).partition("+")[0]
        except PackageNotFoundError:
            unusable.append(f"{requirement} is not installed")
            continue
        pinned = pins.get(requirement.name, installed)
        if not requirement.specifier.contains(installed, prereleases=True):
            unusable.append(f"{requirement} is {installed}")
        elif installed != pinned:
            unpinned.append(f"{requirement.name} {pinned} is {installed}")
    if unusable:
        return Check(name="packages", state=MISSING, finding="; ".join(unusable), remedy=INSTALL)
    if unpinned:
        return Check(
            name="packages",
            state=NOTE,
            finding=f"{'; '.join(unpinned)}: results may differ in their last digits",
            remedy=INSTALL,
        )
    return Check("packages", OK, f"{len(required)} as pinned")


def _pins(constraints: Path) -> dict[str, str]:
    """The exact versions of constraints.txt; empty where the file is not there."""
    lines = constraints.read_text(encoding="utf-8").splitlines() if constraints.is_file() else []
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def _dependencies(project: Path) -> list[str]:
    return tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def check_cache() -> Check:
    """Check that the folder of downloads can be written."""
    cache = default_cache()
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        return Check(
            name="cache",
            state=MISSING,
            finding=f"{cache} cannot be written",
            remedy="export ALTQ_CACHE=FOLDER, one that can be written",
        )
    hub = os.environ.get("HF_HOME", "~/.cache/huggingface")
    return Check("cache", OK, f"{cache} (hub: {hub}), {shutil.disk_usage(nearest).free / 1e9:.0f} GB free")


def check_slurm() -> Check:
    """Find the profile that runs jobs on a cluster from here."""
    if shutil.which("sbatch") is None:
        return Check("SLURM", NOTE, "no sbatch on PATH; jobs run on this machine")
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return Check(
            name="SLURM",
            state=MISSING,
            finding="sbatch, but no executor for Snakemake",
            remedy=INSTALL.replace("-e .", "-e '.[slurm]'"),
        )
    # Without accounting the command exists as well, and fails.
    accounting = subprocess.run(["timeout", "10", "sacct", "--noheader"], capture_output=True, check=False)
    profile = "slurm-no-accounting" if accounting.returncode else "slurm"
    return Check("SLURM", OK, f"snakemake --workflow-profile profiles/{profile}")


def check_experiment(experiment: Experiment, file: Path, folder: Path) -> Iterator[Check]:
    """Check disk and memory for the remaining jobs of an experiment in `folder`, and access to its sources."""
    cores = usable_cores()
    jobs = list_jobs(file, folder, [], cores=cores, gpus=len(list_devices()), remaining=True)
    planned = plan_jobs(Needs(experiment, folder, len(list_devices())), jobs)
    disk, nearest = (
        sum(p.cost.disk for p in planned),
        next(p for p in (folder, *folder.absolute().parents) if p.exists()),
    )
    free = shutil.disk_usage(nearest).free
    finding = f"{len(jobs)} jobs write {disk / 1e9:.1f} GB, {free / 1e9:.1f} GB are free in {nearest}"
    yield (
        Check("disk", OK, finding)
        if disk < free
        else Check(name="disk", state=MISSING, finding=finding, remedy="snakemake --directory ELSEWHERE")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    largest = max(planned, key=lambda p: p.cost.memory, default=None)
    if largest is not None:
        finding = f"{largest.job.rule} takes {largest.cost.memory / 1e9:.1f} GB, there are {memory / 1e9:.1f}"
        fits = largest.cost.memory < memory
        yield Check(
            name="memory",
            state=OK if fits else MISSING,
            finding=finding,
            remedy="" if fits else "run on a larger machine (profiles/slurm)",
        )
    if gpu := check_gpu_memory(planned):
        yield gpu
    yield from check_hub(experiment, folder)


def check_hub(experiment: Experiment, folder: Path) -> Iterator[Check]:
    """Check that the hub can be reached for what is still to be fetched; being offline is no error without such."""
    models = {name for name, model in experiment.models.items() if model.hub}
    missing = sorted(name for name in models if not (folder / "results/models" / name / "source.json").is_file())
    texts = sorted(name for name, corpus in experiment.corpora.items() if corpus.hub)
    missing += [name for name in texts if not (folder / "results/corpora" / name / "source.json").is_file()]
    if not missing:
        yield Check("hub", OK, "nothing is to be fetched from it")
        return
    try:
        socket.create_connection(HUB, timeout=5).close()
    except OSError as error:
        finding = f"{HUB[0]} does not answer ({error}); to be fetched: {', '.join(missing)}"
        yield Check(
            name="hub",
            state=NOTE,
            finding=finding,
            remedy="connect once, or give local copies as `path:` in the configuration",
        )
        return
    from huggingface_hub import get_token

    finding = f"answers; to be fetched: {', '.join(missing)}"
    yield (
        Check("hub", OK, finding)
        if get_token()
        else Check(name="hub", state=NOTE, finding=f"{finding}; no account", remedy="hf auth login")
    )


def check_block(folder: Path, length: int) -> Check:
    """Run a block of a fetched model forward and backward over one window of `length` tokens; all blocks are alike.

    Gradients of its weights are taken, too. The finding gives seconds and the peak memory of the process, on a
    GPU that of its tensors there.
    """
    name = f"block of {folder.name}"
    if not (folder / "source.json").is_file():
        return Check(
            name=name,
            state=NOTE,
            finding=f"{folder} is not fetched yet",
            remedy=f"snakemake --cores 1 {folder / 'source.json'}",
        )
    import resource

    import torch

    from altq.models.skeleton import Skeleton

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.monotonic()
    try:
        skeleton = Skeleton(folder, device=device)
        block = skeleton.block(0).requires_grad_(True)
        tokens = torch.arange(length).remainder(skeleton.config.vocab_size).unsqueeze(0)
        output = block(skeleton.embed(tokens), **skeleton.block_arguments(length)[0])
        output = output[0] if isinstance(output, tuple) else output
        output.square().mean().backward()
    except (torch.OutOfMemoryError, MemoryError) as error:
        return Check(
            name=name,
            state=MISSING,
            finding=f"does not fit the memory of {device} ({error})",
            remedy="run on a larger machine (profiles/slurm)",
        )
    gradients = [parameter.grad for parameter in block.parameters()]
    finite = all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    finding = f"forward and backward on {device} in {time.monotonic() - began:.1f} s, {peak / 1e9:.1f} GB at the peak"
    return Check(name, OK, finding) if finite else Check(name, MISSING, f"{finding}, but its gradients are not finite")
