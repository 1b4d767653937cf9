"""The plan has the jobs that Snakemake runs, and needs nothing but the configuration."""

import re

import pytest
import yaml

pytestmark = pytest.mark.slow


def planned(altq, tmp_path, config, *arguments):
    result = altq("plan", config, *arguments, "--directory", tmp_path / "run", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    return result.stdout


def jobs_of(text):
    """Jobs by stage, from a plan or from Snakemake's own statistics."""
    return {name: int(count) for name, count in re.findall(r"^(\w+) {2,}(\d+)(?: |$)", text, re.MULTILINE)}


def test_as_many_jobs_as_snakemake_counts(project, tmp_path, altq, snakemake):
    smoke = project / "configs" / "smoke.yaml"
    text = planned(altq, tmp_path, smoke)
    dry = snakemake("--configfile", smoke, "--dry-run", folder=tmp_path)
    counted = jobs_of((dry.stdout + dry.stderr).partition("Job stats:")[2].partition("\n\n")[0])
    total = counted.pop("total")
    assert jobs_of(text) == counted and f"{total} jobs, " in text
    assert not list((tmp_path / "run").rglob("*.json"))


def test_refined_methods_read_the_checkpoints_of_others(project, tmp_path, altq, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config |= {"methods": ["quarot", "quarot_refined", "affine_refined"], "settings": ["W3A3K2V2"], "refinement": {}}
    (tmp_path / "refined.yaml").write_text(yaml.safe_dump(config))
    text = planned(altq, tmp_path, tmp_path / "refined.yaml")
    dry = snakemake(
        "--configfile",
        tmp_path / "refined.yaml",
        "--dry-run",
        "--printshellcmds",
        "results/table2.csv",
        folder=tmp_path,
    )
    printed = dry.stdout + dry.stderr
    assert dry.returncode == 0, printed
    counted = jobs_of(printed.partition("Job stats:")[2].partition("\n\n")[0])
    names = ("assemble", "refine", "perplexity", "refinement_tokens", "refinement_held_out_tokens")
    assert [counted[name] for name in names] == [2, 2, 3, 1, 1]
    assert [jobs_of(text)[name] for name in names] == [2, 2, 3, 1, 1]
    (line,) = (line for line in printed.splitlines() if " refine " in line and "--method affine_refined" in line)
    assert "--checkpoint $(dirname results/checkpoints/made/affine/W3A3K2V2/gptq/seed0/quantization.json)" in line
    assert "--output $(dirname results/checkpoints/made/affine_refined/W3A3K2V2/gptq/seed0/quantization.json)" in line


def test_the_paper_on_a_cluster(project, tmp_path, altq):
    target = "results/perplexity/llama3-70b/adaptive/W4A4K4V4/gptq/seed0/wikitext2.json"
    machine = ("--cores", 64, "--gpus", 8, "--memory", 1000)
    text = planned(altq, tmp_path, project / "configs" / "paper.yaml", target, *machine)
    assert "llama3-70b: 70.55 billion weights" in text and "On 64 cores and 8 GPUs with 1000 GB of memory" in text
    assert jobs_of(text)["calibrate"] == 2
    assert re.search(r"^Critical path, .*: fetch_model .* > states .* > calibrate .* > perplexity", text, re.MULTILINE)


def test_what_snakemake_refuses_is_one_message(project, tmp_path, altq):
    refused = altq("plan", project / "configs" / "smoke.yaml", "results/nothing.csv", folder=tmp_path)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "MissingRuleException" in refused.stderr and "results/nothing.csv" in refused.stderr
