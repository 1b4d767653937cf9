"""Compiling at first use: what is kept, what is said where it fails, and the path that is left then."""

import os
import subprocess
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels.cpu import Activations, QuantizedLinear, build, default_variant, library, variant
from kernels.cpu.build import BuildError
from kernels.cpu.variant import VARIANTS, Variant, cpu_features, find_variant, supported_variants

NOTHING = Variant("plain", frozenset(), ())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "altq" / "kernels"


@pytest.fixture
def fresh(monkeypatch):
    """default_variant() that knows nothing of earlier calls."""
    functions = (default_variant, library.load_library, cpu_features)
    for function in functions:
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in functions:
        function.cache_clear()


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for the compiler: writes its output file, and counts its runs."""
    runs = []

    def run(command):
        if "-o" in command:
            runs.append(command)
            with open(command[command.index("-o") + 1], "w") as file:
                file.write("library")
        return subprocess.CompletedProcess(command, 0, stdout="cc 1.0", stderr="")

    monkeypatch.setattr(build, "_run", run)
    monkeypatch.setattr(build, "_compiler", lambda: "cc")
    return runs


def test_a_library_is_built_once_and_kept(cache, compiler):
    path = build.build(NOTHING)
    assert path.read_text() == "library" and path.parent == cache
    assert build.build(NOTHING) == path and len(compiler) == 1
    assert {p.name for p in cache.iterdir()} == {path.name, f"{path.name}.sha256"}, "nothing else is left beside it"


def test_another_compiler_or_another_source_is_another_library(cache, compiler, tmp_path, monkeypatch):
    names = {build.build(NOTHING).name, build.build(Variant("plain", frozenset(), ("-g",))).name}
    source = tmp_path / "source"
    source.mkdir()
    (source / "kernels.c").write_text("int x;")
    monkeypatch.setattr(build, "SOURCE", source)
    names.add(build.build(NOTHING).name)
    assert len(names) == 3


@pytest.mark.parametrize(
    "damage", ["cut", "emptied", "edited", "without a hash", "another hash", "linked", "open to others"]
)
def test_a_library_that_is_not_what_was_compiled_is_never_loaded(cache, compiler, tmp_path, damage):
    path = build.build(NOTHING)
    note = path.with_name(path.name + ".sha256")
    match damage:
        case "cut":
            path.write_text("libr")
        case "emptied":
            path.write_text("")
        case "edited":
            path.write_text("Library")
        case "without a hash":
            note.unlink()
        case "another hash":
            note.write_text("0" * 64)
        case "linked":
            (tmp_path / "elsewhere").write_text("library")
            path.unlink()
            path.symlink_to(tmp_path / "elsewhere")
        case "open to others":
            path.chmod(0o666)
    with pytest.warns(UserWarning, match="is not loaded, but compiled anew"):
        assert build.build(NOTHING) == path
    assert len(compiler) == 2 and path.read_text() == "library" and not path.is_symlink()
    assert build.build(NOTHING) == path and len(compiler) == 2


def test_a_cut_library_does_not_end_the_process(tmp_path, run_python, project, monkeypatch):
    """For real, since loading a library that is cut off is a SIGBUS or SIGSEGV."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = "from kernels.cpu import default_variant; print(default_variant())"
    first = run_python("-P", "-c", code, folder=project)
    for path in (tmp_path / "altq" / "kernels").glob("*.so"):
        with open(path, "r+b") as file:
            file.truncate(4096)
    again = run_python("-P", "-c", code, folder=project)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert first.stdout == "torch\n" or "compiled anew" in again.stderr


def test_a_cache_of_another_user_is_not_loaded_from(cache, compiler, monkeypatch):
    build.build(NOTHING)
    monkeypatch.setattr(build.os, "geteuid", lambda: cache.stat().st_uid + 1)
    with pytest.raises(BuildError, match=r"belongs to user .*set XDG_CACHE_HOME"):
        build.build(NOTHING)
    assert len(compiler) == 1


@pytest.mark.parametrize("level", [0, 1])
def test_a_cache_that_others_could_write_to_is_closed_and_forgotten(cache, compiler, level):
    path = build.build(NOTHING)
    place = (cache, cache.parent)[level]
    place.chmod(0o777)
    with pytest.warns(UserWarning, match="compiled anew"):
        assert build.build(NOTHING) == path
    assert len(compiler) == 2 and place.stat().st_mode & 0o777 == 0o700


def test_what_is_kept_is_closed_to_others_whatever_the_umask(cache, compiler):
    before = os.umask(0)
    try:
        build.build(NOTHING)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert {place.stat().st_mode & 0o777 for place in (cache, cache.parent)} == {0o700}


def test_builds_at_once_end_in_one_library(cache, compiler):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(build.build, [NOTHING] * 8))
    assert len(paths) == 1 and len(list(cache.iterdir())) == 2
    assert build._problem(paths.pop()) is None


def test_what_the_compiler_says_is_passed_on(cache, tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    (source / "kernels.c").write_text("#error too old\n")
    monkeypatch.setattr(build, "SOURCE", source)
    with pytest.raises(BuildError, match=r"too old|no C compiler"):
        build.build(NOTHING)
    assert not cache.is_dir() or not list(cache.iterdir())


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, compiler):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BuildError, match="XDG_CACHE_HOME"):
        build.build(NOTHING)


def test_without_a_compiler_torch_multiplies_and_says_so_once(cache, fresh, monkeypatch):
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(library, "supported_variants", lambda: [NOTHING])
    monkeypatch.setattr(library, "find_variant", lambda name: NOTHING)
    with pytest.warns(UserWarning, match="torch._int_mm.*no C compiler was found .no-such-compiler."):
        assert default_variant() == "torch"
    weights = torch.tensor([[1, -2, 3]], dtype=torch.int8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = QuantizedLinear(weights, torch.ones(1), weight_bits=4, activations=Activations(8))
    assert layer.variant == "torch"
    x = torch.tensor([[1.0, 0.5, -1.0]])
    assert layer(x).item() == pytest.approx(-3.0, rel=0.01)


def test_a_processor_without_the_instructions_is_told_so(tmp_path, fresh, monkeypatch):
    information = tmp_path / "cpuinfo"
    information.write_text("processor : 0\nflags\t\t: fpu sse sse2\n")
    monkeypatch.setattr(variant, "CPU_INFORMATION", information)
    assert supported_variants() == []
    with pytest.raises(ValueError, match="'avx2' needs avx2, fma, which this processor lacks"):
        find_variant("avx2")
    with pytest.warns(UserWarning, match="this processor runs none of amx, avx512vnni, avx2vnni, avx2"):
        assert default_variant() == "torch"


def test_a_system_that_does_not_list_features(tmp_path, fresh, monkeypatch):
    monkeypatch.setattr(variant, "CPU_INFORMATION", tmp_path / "absent")
    assert cpu_features() == frozenset()


def test_the_fastest_variant_is_taken(fresh):
    names = [v.name for v in VARIANTS if v.features <= cpu_features()]
    assert default_variant() == (names[0] if names else "torch")
