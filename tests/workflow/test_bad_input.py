"""A configuration that cannot be used is refused before any job, in one message and without a traceback."""

import yaml


def refused(snakemake, folder, config):
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(config))
    result = snakemake("--cores", "1", "--configfile", file, folder=folder)
    text = result.stdout + result.stderr
    assert result.returncode != 0
    assert "Traceback" not in text and "rule " not in text
    assert text.count("the configuration cannot be used") == 1
    assert not (folder / "results").exists()
    return text


def test_all_problems_in_one_message(project, tmp_path, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config |= {"settings": ["W0A4K4V4"], "methods": ["full", "afine"], "colour": "red"}
    config["models"]["mine"] = {"path": str(tmp_path / "absent"), "num_blocks": 2}
    config["selection"] = {"heuristic": {"attention": {"beta": 1.5}}}
    config["baselines"] = {"quarot": {"kind": "affine"}, "flatquant": {"unit": "layer"}, "spinquand": {"steps": 1}}
    text = refused(snakemake, tmp_path, config)
    for said in (
        "settings: setting W0A4K4V4: 0 bits for weights cannot be used",
        "methods: method 'afine' is not known; did you mean affine?",
        "colour: unknown key",
        f"models.mine.path: local path '{tmp_path / 'absent'}' does not exist",
        "selection.heuristic.attention.beta: Input should be less than or equal to 1",
        "baselines.quarot.kind: unknown key",
        "baselines.flatquant.unit: Input should be 'sublayer' or 'block'",
        "baselines.spinquand: unknown key",
    ):
        assert said in text


def test_more_rotations_than_layers(project, tmp_path, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config["selection"] = {"heuristic": {"ffn": {"count": 5}}}
    assert "selection.heuristic.ffn.count is 5, but made has 4 blocks" in refused(snakemake, tmp_path, config)


def test_a_baseline_that_wants_more_windows_than_there_are(project, tmp_path, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    config["baselines"]["ostquant"] = {"steps": 2, "windows_per_step": 9}
    said = "baselines.ostquant.windows_per_step is 9, but calibration.num_windows is 8"
    assert said in refused(snakemake, tmp_path, config)


def test_a_corpus_too_short_stops_at_its_tokens(project, tmp_path, snakemake):
    config = yaml.safe_load((project / "configs" / "smoke.yaml").read_text())
    (tmp_path / "short.txt").write_text("A few words.\n\nAnd more of them.\n")
    paths = dict.fromkeys(("calibration", "test"), str(tmp_path / "short.txt"))
    config["corpora"] = {"short": {"paths": paths}}
    config["calibration"]["corpus"] = "short"
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(config))
    result = snakemake("--configfile", file, "--cores", "1", "results/tokens/made/short/test.npy", folder=tmp_path)
    text = result.stdout + result.stderr
    assert result.returncode != 0 and "Traceback" not in text
    assert "altq: the test split of corpus short is too short" in text
