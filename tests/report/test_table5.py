"""Table 5 from made measurements: the speed-ups as they are, empty columns where nothing was measured."""

import json

import pandas
import pytest

from altq.report.presentation import Presentation
from altq.report.table5 import table5_frame, wide_table, write_table5
from altq.report.table_files import read_tidy

PLAIN = Presentation()
METHODS = {"fp32 torch": 8.0, "INT4": 2.0, "QuaRot": 2.5, "FlatQuant": 2.5, "adaptive": 2.5}


CPU = {"cpu": "A CPU", "threads": 1, "variant": "amx", "torch": "2"}
GPU = {"gpu": "H100", "clocks": "1980 MHz", "torch": "2", "triton": "3"}


def rows(device, shape, calls, methods=METHODS):
    return [
        {
            "device": device, "phase": phase, "shape": shape, "tokens": tokens, "kv_length": kv_length,
            "method": method, "median_seconds": seconds / 1e3, "low_seconds": seconds / 1e3,
            "high_seconds": seconds / 1e3,
            "ratio": next(iter(methods.values())) / seconds, "ratio_low": 1.0, "ratio_high": 9.0,
            "limit_seconds": 0.001, "rounds": 11,
        }
        for phase, tokens, kv_length in calls
        for method, seconds in methods.items()
    ]  # fmt: skip


def write(path, content, machine):
    pandas.DataFrame(content).to_csv(path, index=False)
    path.with_suffix(".json").write_text(json.dumps(machine))
    return path


@pytest.fixture
def cpu(tmp_path):
    calls = [("prefill", 2048, 0), ("prefill", 256, 0), ("decode", 1, 256), ("linear", 16, 0)]
    return write(tmp_path / "cpu.csv", rows("CPU", "llama-2-7b", calls), CPU)


def columns_of(table):
    return [column.headings for column in table.columns]


def test_speed_ups_and_limits_stand_in_order(cpu):
    table = wide_table(table5_frame([cpu]), PLAIN)
    assert columns_of(table)[7:10] == [
        ("CPU: prefill, tokens", "256"), ("CPU: prefill, tokens", "2048"), ("CPU: decode, tokens in cache", "256")
    ]  # fmt: skip
    cells = {row.stub[1]: [cell.text for cell in row.cells] for row in table.rows}
    assert cells["INT4, no transform"][7] == "4.00 of 8.0" and cells["Adaptive"][8] == "3.20 of 8.0"
    assert cells["fp32 torch"][7] == "1.00 (8 ms)"


def test_without_a_gpu_its_columns_are_empty_and_said_to_be(cpu):
    table = wide_table(table5_frame([cpu]), PLAIN)
    assert columns_of(table)[0] == ("GPU: prefill, tokens", "2048")
    assert columns_of(table)[3:7] == [("GPU: decode, tokens in cache", f"{n}") for n in (256, 512, 1024, 2048)]
    assert {cell.text for row in table.rows for cell in row.cells[:7]} == {"–"}
    told = {entry.key: entry.here for entry in table.protocol}
    assert "No GPU was at hand" in table.caption
    assert "no CPU multiplies 4-bit integers" in told["Codes on a CPU"]
    assert told["CPU"].startswith("A CPU, 1 thread, amx kernels")


def test_the_papers_numbers_stand_beside_its_layer_alone(cpu, tmp_path):
    small = write(tmp_path / "small.csv", rows("CPU", "smollm2-135m", [("decode", 1, 256)]), CPU)
    table = wide_table(table5_frame([cpu, small]), PLAIN)
    papers = {(*row.stub,): [cell.text for cell in row.cells[-7:]] for row in table.rows}
    assert papers["llama-2-7b", "Adaptive"] == ["1.32", "1.46", "1.89", "1.047", "1.083", "1.09", "1.117"]
    assert set(papers["smollm2-135m", "Adaptive"]) == {"–"}
    alone = wide_table(table5_frame([small]), PLAIN)
    assert not any(column.muted for column in alone.columns) and "Grey" not in alone.caption


def test_a_gpu_has_two_baselines(tmp_path):
    methods = {"fp16 as published": 8.0, "fp16 SDPA, CUDA graph": 4.0, "INT4": 2.0}
    path = write(tmp_path / "gpu.csv", rows("H100", "llama-2-7b", [("decode", 64, 512)], methods), GPU)
    frame = table5_frame([path]).set_index("method")
    assert frame["ratio_to_fastest"].to_dict() == {
        "fp16 as published": 0.5, "fp16 SDPA, CUDA graph": 1.0, "INT4": 2.0
    }  # fmt: skip
    table = wide_table(frame.reset_index(), PLAIN)
    assert columns_of(table)[4] == ("H100: decode, tokens in cache", "512")
    assert table.rows[-1].cells[4].text == "4.00 of 8.0"
    assert "No GPU" not in table.caption and not any("CPU" in entry.key for entry in table.protocol)


def test_the_file_reads_back(cpu, tmp_path):
    write_table5([cpu], tmp_path / "table5.csv", PLAIN)
    assert wide_table(read_tidy(tmp_path / "table5.csv"), PLAIN) == wide_table(table5_frame([cpu]), PLAIN)
    for suffix in (".md", ".tex", ".png"):
        assert (tmp_path / "table5").with_suffix(suffix).stat().st_size > 0


def test_a_time_that_is_none_is_refused(cpu):
    frame = pandas.read_csv(cpu)
    frame.loc[3, "median_seconds"] = float("nan")
    frame.to_csv(cpu, index=False)
    with pytest.raises(ValueError, match="median_seconds that is no positive number"):
        table5_frame([cpu])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "holds no measurements"),
        (lambda text: text.replace("median_seconds", "median"), "holds no measurements .*median_seconds"),
        (lambda text: text.replace("method", "way"), "holds no measurements .method missing"),
        (lambda text: text.replace("0.001", "quick"), "holds no measurements"),
    ],
)
def test_measurements_that_are_none_are_refused(cpu, change, said):
    cpu.write_text(change(cpu.read_text()))
    with pytest.raises(ValueError, match=f"{cpu} {said}.*; measure again"):
        table5_frame([cpu])


@pytest.mark.parametrize("record", ["[]", "{}", '{"threads": 1}', "{"])
def test_a_record_that_does_not_name_the_machine_is_refused(cpu, record):
    cpu.with_suffix(".json").write_text(record)
    with pytest.raises(ValueError, match=f"{cpu.with_suffix('.json')}.*; measure again"):
        table5_frame([cpu])
