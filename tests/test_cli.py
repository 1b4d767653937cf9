"""The command line teaches, checks, and says what is wrong in one message."""

import errno
import json
import re
import shlex
import sys
import warnings

import pytest
import yaml

from altq.cli import COMMANDS, GROUPS, command_parser, help_of, main
from altq.commands import results

STAGES = [name for name in COMMANDS if name not in ("config", "schema")]


def said(capsys, *argv):
    """Exit code and the single message of a failure."""
    code = main(list(map(str, argv)))
    error = capsys.readouterr().err
    assert error.startswith("altq: ") and "Traceback" not in error
    return code, error


@pytest.mark.parametrize("argv", [[], ["--help"], ["help"]])
def test_help_lists_every_command_in_its_group(argv, capsys):
    assert main(argv) == 0
    text = capsys.readouterr().out
    places = [re.search(rf"^  {name} +\S", text, re.MULTILINE).start() for name in COMMANDS]
    assert places == sorted(places)
    assert all(f"\n{group}:\n" in text for group in GROUPS)


def test_the_version_is_that_of_the_package(capsys, project):
    assert main(["--version"]) == 0
    assert f'\nversion = "{capsys.readouterr().out.split()[1]}"' in (project / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert f"\n  altq {name} " in text, "an example"
    if name in STAGES:
        assert re.search(r"\b[Rr]eads\b", text) and re.search(r"\b[Ww]rites\b|\bPrint\b", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_accepted(name):
    examples = re.findall(r"^  altq (.+)$", help_of(name).replace("\\\n", " "), re.MULTILINE)
    assert examples
    for example in examples:
        command, *flags = shlex.split(example.split(" > ")[0])
        assert command == name and command_parser(name).parse_args(flags).run


def test_usage_errors_exit_with_2(capsys):
    for argv in (["calibrate"], ["statistics", "--model", "a", "--output", "b", "--threads", "0"]):
        with pytest.raises(SystemExit) as exited:
            main(argv)
        assert exited.value.code == 2
    assert "usage: altq" in capsys.readouterr().err
    assert main(["tabel2"]) == 2
    assert "'tabel2' is no command; did you mean table2?" in capsys.readouterr().err


def test_a_bad_configuration_is_one_message(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("colour: red\n")
    code, error = said(capsys, "config", file)
    assert code == 1 and "colour: unknown key" in error and "models: Field required" in error
    file.write_text("a: [")
    assert "is not YAML" in said(capsys, "config", file)[1]
    file.write_text("- a\n")
    assert "holds no keys" in said(capsys, "config", file)[1]
    assert "No such file" in said(capsys, "config", tmp_path / "absent.yaml")[1]


def test_config_prints_defaults(project, capsys):
    assert main(["config", str(project / "configs" / "smoke.yaml")]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["rounding"]["weights"] == "gptq" and printed["recipe"]["steps"] == 2
    spinquant = printed["baselines"]["spinquant"]
    assert spinquant["steps"] == 2 and spinquant["optimiser"] == "cayley_sgd"  # the file's, and its authors'


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fetch-model", "--source", "{hub: a}", "--output", "x"], "num_blocks: Field required; hub: "),
        (["fetch-corpus", "--source", "[", "--output", "x"], "--source is not YAML"),
        (["select", "--policy", "heuristic", "--output", "x"], "--policy heuristic needs --statistics"),
        (["select", "--policy", "affine", "--output", "x"], "--policy affine needs --model-name and --num-blocks"),
        (["show", "nowhere.csv"], "nowhere.csv is missing"),
        (["cost", "--checkpoints", "nowhere", "--output", "x.csv"], "nowhere"),
    ],
)
def test_bad_arguments_are_one_message(argv, message, capsys):
    code, error = said(capsys, *argv)
    assert code == 1 and message in error


def test_bad_settings_are_refused_before_anything_is_read(capsys):
    places = ["--model", "m", "--states", "s", "--output", "o"]
    code, error = said(capsys, "calibrate", *places, "--setting", "W0A4K4V4", "--kind", "affine", "--seed", 0)
    assert code == 1 and "0 bits for weights" in error
    code, error = said(
        capsys, "calibrate", *places, "--setting", "W4A4K4V4", "--kind", "affine", "--seed", 0, "--steps", -1
    )
    assert code == 1 and "--steps: " in error
    at = ["calibrate-end-to-end", *places, "--seed", 0]
    assert "0 bits for weights" in said(capsys, *at, "--setting", "W0A4K4V4")[1]
    code, error = said(capsys, *at, "--setting", "W4A4K4V4", "--loss", "mse", "--trained", '["values"]')
    assert code == 1 and "--loss: " in error and "--trained: " in error


def test_tokens_checks_what_belongs_together(capsys):
    places = ["--model", "m", "--corpus", "c", "--output", "o.npy", "--window-length", 8]
    assert "need --seed and --num-windows" in said(capsys, "tokens", *places, "--split", "calibration")[1]
    assert "--seed has no effect" in said(capsys, "tokens", *places, "--split", "test", "--seed", 1)[1]
    assert "--num-windows 0 draws nothing" in said(capsys, "tokens", *places, "--split", "test", "--num-windows", 0)[1]


def test_a_selection_of_one_kind(tmp_path):
    path = tmp_path / "affine.json"
    argv = ["select", "--policy", "affine", "--model-name", "m", "--num-blocks", "2", "--output", str(path)]
    assert main(argv) == 0
    written = json.loads(path.read_text())
    assert written["kinds"] == ["affine"] * 4 and written["provenance"]["command"] == "select"


def test_random_selections_by_their_seed(tmp_path):
    argv = [
        "select",
        "--policy",
        "random",
        "--model-name",
        "m",
        "--num-blocks",
        "4",
        "--candidates",
        "affine",
        "rotation",
    ]
    for seed, name in ((3, "a"), (3, "b"), (4, "c")):
        assert main([*argv, "--seed", str(seed), "--output", str(tmp_path / name)]) == 0
    a, b, c = (json.loads((tmp_path / name).read_text()) for name in "abc")
    assert a["kinds"] == b["kinds"] != c["kinds"] and a["policy"] == "random3"


def test_a_selection_by_scores(tmp_path):
    values = [[["affine", 0.5], ["rotation", 0.25]], [["affine", 0.1], ["rotation", 0.2]]]
    scores = {"model": "m", "quantity": "error", "lower_is_better": True, "values": values, "provenance": {}}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    argv = ["select", "--policy", "oracle", "--scores", tmp_path / "scores.json", "--output", tmp_path / "oracle.json"]
    assert main(list(map(str, argv))) == 0
    assert json.loads((tmp_path / "oracle.json").read_text())["kinds"] == ["rotation", "affine"]


def test_the_best_random_selection_by_perplexity(tmp_path):
    for seed, perplexity in enumerate((9.0, 7.0, 8.0)):
        argv = ["--policy", "random", "--model-name", "m", "--num-blocks", "4", "--candidates", "affine", "rotation"]
        assert main(["select", *argv, "--seed", str(seed), "--output", str(tmp_path / f"random{seed}.json")]) == 0
        result = {"method": f"random{seed}", "corpus": "wiki", "perplexity": perplexity}
        (tmp_path / f"result{seed}.json").write_text(json.dumps(result))
    files = [[str(tmp_path / f"{name}{seed}.json") for seed in range(3)] for name in ("result", "random")]
    argv = ["select", "--policy", "best_random", "--results", *files[0], "--selections", *files[1]]
    assert main([*argv, "--output", str(tmp_path / "best.json")]) == 0
    best, second = (json.loads((tmp_path / name).read_text()) for name in ("best.json", "random1.json"))
    assert best["kinds"] == second["kinds"] and best["policy"] == "best_random"


@pytest.mark.parametrize(
    ("policy", "needs"),
    [
        ("heuristic", "--statistics"),
        ("affine", "--model-name and --num-blocks"),
        ("random", "--model-name and --num-blocks and --candidates and --seed"),
        ("oracle", "--scores"),
        ("best_random", "--results and --selections"),
    ],
)
def test_a_policy_says_what_it_needs(capsys, policy, needs):
    code, error = said(capsys, "select", "--policy", policy, "--output", "o.json")
    assert code == 1 and f"--policy {policy} needs {needs}" in error


def test_selections_that_are_the_same_are_found(tmp_path):
    paths = []
    for name, kind in (("affine", "affine"), ("grid0", "affine"), ("grid1", "rotation"), ("grid2", "rotation")):
        paths.append(str(tmp_path / f"{name}.json"))
        argv = ["select", "--policy", kind, "--model-name", "m", "--num-blocks", "2", "--output", paths[-1]]
        assert main(argv) == 0
    assert main(["distinct", "--selections", *paths, "--output", str(tmp_path / "same.json")]) == 0
    same = json.loads((tmp_path / "same.json").read_text())["first"]
    assert same == {"affine": "affine", "grid0": "affine", "grid1": "grid1", "grid2": "grid1"}


def test_the_kept_schema_is_that_of_the_code(project, capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (project / "rules" / "config.schema.yaml").read_text(encoding="utf-8"), (
        "run `altq schema > rules/config.schema.yaml`"
    )


def test_the_schema_describes_every_key(project):
    schema = yaml.safe_load((project / "rules" / "config.schema.yaml").read_text())
    described = ("Recipe", "EndToEndRecipe", "RoundingOptions", "EvaluationOptions", "CalibrationOptions",
                 "SearchOptions", "Table6", "Table7")  # fmt: skip
    for name in (*described, "ModelDescription"):
        properties = schema["$defs"][name]["properties"]
        assert properties and all("description" in entry for entry in properties.values())


def test_help_imports_nothing_heavy(run_python, project):
    heavy = ("torch", "transformers", "pandas", "matplotlib", "datasets", "numpy")
    code = f"import sys, altq.cli; altq.cli.main([]); print([m for m in {heavy} if m in sys.modules])"
    assert run_python("-c", code, folder=project).stdout.strip().endswith("\n[]")


def test_threads_reach_the_libraries(run_python, project):
    code = (
        "from altq import cli\n"
        "cli.import_module = lambda name: __import__('types').SimpleNamespace(\n"
        "    show_flags=lambda parser: None,\n"
        "    show=lambda arguments: print(__import__('torch').get_num_threads()))\n"
        "cli.main(['show', '--threads', '1'])\n"
    )
    assert run_python("-c", code, folder=project).stdout.strip() == "1"


ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"


@pytest.mark.parametrize("asked", [2, 10**9])
@pytest.mark.parametrize("by", ["flag", "environment"])
def test_threads_are_at_most_the_usable_cores(run_python, project, asked, by, monkeypatch):
    words = ["show"]
    if by == "flag":
        words += ["--threads", asked]
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", str(asked))
        monkeypatch.setenv("RAYON_NUM_THREADS", str(asked))
    # What a library would do with the number: torch asks for its threads when it is imported.
    code = ONE_CORE + (
        "import sys, types; from altq import cli; from altq.runtime import cores\n"
        "def show(arguments):\n"
        "    import torch\n"
        "    numbers = {os.environ.get(name, '1') for name in cores.THREAD_VARIABLES}\n"
        "    print(torch.get_num_threads(), arguments.threads, numbers)\n"
        "cli.import_module = lambda name: types.SimpleNamespace(show_flags=lambda parser: None, show=show)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    ended = run_python("-c", code, *words, folder=project)
    assert ended.stdout.strip() == f"1 {1 if by == 'flag' else None} {{'1'}}", ended.stderr
    flag = "--threads" if by == "flag" else "OMP_NUM_THREADS"
    assert f"altq: warning: {flag} {asked}: this process may use 1 cores, and takes 1 threads" in ended.stderr


def test_warnings_are_messages(capsys, monkeypatch):
    monkeypatch.setattr(results, "show", lambda arguments: warnings.warn("half of the layers are alike", stacklevel=1))
    assert main(["show"]) == 0
    assert capsys.readouterr().err == "altq: warning: half of the layers are alike\n"
    assert sys.stderr.__class__.__name__ != "LinesFromBars"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you\nat"
        ),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        RuntimeError("can't start new thread"),
    ],
)
def test_want_of_memory_is_one_message(monkeypatch, capsys, error):
    def run(arguments):
        raise error

    monkeypatch.setattr(results, "show", run)
    code, said_so = said(capsys, "show")
    assert code == 1 and said_so.startswith("altq: out of memory; ") and "ulimit -v" in said_so
    assert said_so.count("\n") == 1


def test_a_full_disk_says_what_to_do(monkeypatch, capsys):
    def run(arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "results/table2.csv")

    monkeypatch.setattr(results, "show", run)
    code, error = said(capsys, "show")
    assert code == 1 and "'results/table2.csv'; free some space" in error


@pytest.mark.parametrize(
    ("place", "remedy"), [("absent.yaml", "make it first"), ("", "give a file"), ("file/below.yaml", "give a folder")]
)
def test_a_path_that_cannot_be_read_says_what_to_do(capsys, tmp_path, place, remedy):
    (tmp_path / "file").write_text("content")
    code, error = said(capsys, "config", tmp_path / place)
    assert code == 1 and str(tmp_path / place) in error and remedy in error and "Errno" not in error


def test_a_defect_keeps_its_traceback(monkeypatch):
    def run(arguments):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(results, "show", run)
    with pytest.raises(RuntimeError, match="a defect of ours"):
        main(["show"])


@pytest.mark.parametrize(
    ("content", "said_so"),
    [
        (b"seeds: [0]\nmethods: [full]\nseeds: [1]\n", "the key 'seeds' is given twice at line 3"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: \xff", "is not UTF-8: line 1 has the byte 0xff"),
        (b"a: \0", "U+0000"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_one_message(tmp_path, capsys, content, said_so):
    (tmp_path / "config.yaml").write_bytes(content)
    code, error = said(capsys, "config", tmp_path / "config.yaml")
    assert code == 1 and error.startswith(f"altq: {tmp_path}/config.yaml ") and said_so in error
