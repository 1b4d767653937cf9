"""`make gpu`: its program, rehearsed on the CPU, and what it says where there is no GPU."""

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make gpu runs on it")
def test_without_a_gpu_it_says_so_and_fails(run_python, project, tmp_path):
    result = run_python(project / "benchmarks/gpu.py", "--output", tmp_path / "gpu.md", folder=project)
    assert result.returncode == 1 and "make gpu: --device cuda: no GPU is there" in result.stderr
    assert not list(tmp_path.iterdir())


def test_its_sections_run_on_the_cpu(run_python, project, tmp_path):
    path = tmp_path / "gpu.md"
    arguments = ("--device", "cpu", "--small", "--output", path)
    result = run_python(project / "benchmarks/gpu.py", *arguments, folder=project)
    text = path.read_text()
    assert result.returncode == 0, text
    for said in ("# altq on the CPU", "## Machine", "passed", "| GPTQ |", "| perplexity |", "A step of both halves: "):
        assert said in text, said
    assert "Failed" not in text
