"""A bank that is calibrated in shards, by jobs of their own, is the bank that one job calibrates."""

import json
import shutil

import pytest
import yaml

pytestmark = pytest.mark.slow

BANK = "results/bank/made/W3A3K2V2/seed0/affine"


def test_shards_give_the_same_bank(smoke, project, tmp_path, snakemake):
    for part in ("models", "tokens", "states", "corpora"):
        shutil.copytree(smoke.folder / "results" / part, tmp_path / "results" / part)
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config["calibration"]["shards"] = 2
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ("--rerun-triggers", "mtime", "--configfile", tmp_path / "config.yaml", "--cores", "2")
    result = snakemake(*arguments, f"{BANK}/index.json", folder=tmp_path)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    assert "3 of 3 steps (100%) done" in result.stdout + result.stderr
    expected, made = (
        {path.name: path.read_bytes() for path in (folder / BANK).iterdir() if path.suffix == ".safetensors"}
        for folder in (smoke.folder, tmp_path)
    )
    assert made == expected and len(made) == 8
    assert (tmp_path / BANK / "index.json").read_bytes() == (smoke.folder / BANK / "index.json").read_bytes()
    whole = json.loads((tmp_path / BANK / "provenance.json").read_text())
    parts = [json.loads((tmp_path / BANK / f"shards/{n}-of-2.json").read_text()) for n in (1, 2)]
    assert whole["processor_seconds"] > sum(part["processor_seconds"] for part in parts)
