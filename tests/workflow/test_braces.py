"""Braces in captions, sources and paths are the user's own, and no wildcards of Snakemake's."""

import shlex
import shutil

import pytest
import yaml

NOTE = '$x_{i}$ of {wildcards.model}, {{}} and {threads}: it\'s "quoted"'


@pytest.fixture(scope="module")
def checkout(project, tmp_path_factory):
    """The workflow in a folder whose path has braces, blanks and a dollar sign."""
    folder = tmp_path_factory.mktemp("braces") / "{x} $y {{z"
    for name in ("altq", "kernels", "rules", "profiles", "envs", "configs"):
        shutil.copytree(project / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml", "pyproject.toml", "README.md"):
        shutil.copy(project / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def run(checkout):
    """A folder to run in, with braces in its path, a configuration and a corpus."""
    folder = checkout / "run {a}"
    folder.mkdir()
    config = yaml.safe_load((checkout / "configs" / "smoke.yaml").read_text())
    config["notes"] = [NOTE]
    config["models"]["made"]["published"] = "{model}"
    (folder / "text {t}.txt").write_text("\n\n".join(f"Title {n}\nSome words of document {n}." for n in range(40)))
    config["corpora"]["own"] = {"path": "text {t}.txt"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_dry_run_prints_captions_as_they_are_written(checkout, run, snakemake):
    targets = ("results/table2.csv", "results/table3.csv", "study")
    done = snakemake(
        "--configfile", run / "mine.yaml", "--cores", "1", "--dry-run", "--printshellcmds", *targets,
        folder=run, root=checkout,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-2000:]
    commands = [line.partition("Shell command: ")[2] for line in text.splitlines() if "-m altq table" in line]
    assert {command.split()[4] for command in commands} == {f"table{number}" for number in (1, 2, 3, 4, 6, 7)}
    for command in commands:
        words = shlex.split(command.partition(" 2> ")[0])
        protocol = yaml.safe_load(words[words.index("--protocol") + 1])
        assert NOTE in [here for _, here, _ in protocol], command


def test_a_job_runs_in_a_folder_with_braces(checkout, run, snakemake):
    target = "results/corpora/own/source.json"
    done = snakemake("--configfile", run / "mine.yaml", "--cores", "1", target, folder=run, root=checkout)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert "Some words" in (run / "results/corpora/own/test.txt").read_text()


def test_a_key_that_is_given_twice_stops_the_workflow(project, tmp_path, snakemake):
    text = (project / "configs" / "smoke.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text + "\nseeds: [1]\n")
    done = snakemake("--configfile", tmp_path / "mine.yaml", "--cores", "1", "--dry-run", folder=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said and "the key 'seeds' is given twice" in said
