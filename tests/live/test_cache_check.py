"""`omron-miner live circuits check` reports what the miner would fail on, and whether it was published like that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from omron_miner.building.downloads import Rules
from omron_miner.cli import main
from omron_miner.errors import OmronError
from omron_miner.live.bundle import crc32c
from omron_miner.live.cache_check import check, to_text
from omron_miner.live.circuits import Settings, sync
from stand_in_repository import bundle_files, enveloped, manifest, serving, sha

if TYPE_CHECKING:
    from pathlib import Path

RULES = Rules(
    hosts=(), plain_http=True, total_seconds=20.0, stall_seconds=5.0, tries=2, max_bytes=1 << 30, keep_free_bytes=0,
    pause_seconds=0.0,
)  # fmt: skip


def cached(tmp_path: Path, **changed: bytes) -> Path:
    """A cache of one circuit with one slice of such files; the slice's folder is `slices/one`."""
    return filled(tmp_path, bundle_files("one", **changed))


def filled(tmp_path: Path, files: dict[str, bytes], weights: bytes | None = b"") -> Path:
    with serving() as repository:
        repository.add_circuit("net", [repository.add_component("one", files, weights)])
        settings = Settings(url=repository.url, cache=tmp_path / "cache", keep_free_bytes=0, rules=RULES)
        assert sync(settings).ok
    return tmp_path / "cache"


def folder(cache: Path) -> Path:
    return cache / f"model_{sha('net')}" / "slices" / "one"


def problems(cache: Path, hashes: bool = False) -> list[tuple[str, bool]]:
    return [(one.text, one.published) for one in check(cache, hashes).findings]


def test_the_crc_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its definition
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


@pytest.mark.parametrize("config", ["bn254_raw", "GoldilocksExt2Basefold", 4, "goldilocks_ext4_whir"])
def test_a_slice_with_all_it_needs_is_provable(tmp_path: Path, config: Any) -> None:
    report = check(cached(tmp_path, manifest=manifest(config)))
    assert (report.ok, report.circuits, report.slices, report.provable) == (True, 1, 1, 1)


def test_manifests_of_older_forms_are_taken_as_the_miner_takes_them(tmp_path: Path) -> None:
    raw = msgpack.packb({"metadata": {"proof_config": {"config": "bn254_raw", "version": 1}}})
    assert check(cached(tmp_path / "raw", manifest=raw)).provable == 1
    assert check(cached(tmp_path / "zstd", manifest=b"\x28\xb5\x2f\xfd compressed")).provable == 1
    assert check(cached(tmp_path / "flag", manifest=enveloped(b"compressed", flags=1))).provable == 1


@pytest.mark.parametrize(
    ("content", "text", "published"),
    [
        (enveloped(msgpack.packb({"metadata": {"scale_base": 2}})), "no stamped proof_config", True),
        (enveloped(msgpack.packb({"metadata": None})), "no stamped proof_config", True),
        (enveloped(msgpack.packb([1])), "no stamped proof_config", True),
        (manifest(version=2), "incompatible bundle", True),
        (manifest(version=None), "incompatible bundle", True),
        (manifest("mersenne31"), "not known", True),
        (manifest(None), "not known", True),
        (manifest()[:15], "ends within its header", False),
        (manifest()[:-1], "bytes it announces", False),
        (enveloped(b"\x80", length=1 << 60), "bytes it announces", False),
        (enveloped(b"\x80", checksum=1), "checksum", False),
        (enveloped(b"\x80", flags=6), "flags 0x6", True),
        (enveloped(b"\xc1"), "not msgpack", False),
        (enveloped(b"\x91" * 5000), "not msgpack", False),
    ],
)
def test_a_manifest_that_the_miner_refuses_is_named(tmp_path: Path, content: bytes, text: str, published: bool) -> None:
    cache = cached(tmp_path)
    (folder(cache) / "jstprove/circuit.bundle/manifest.msgpack").write_bytes(content)
    [(found, whose)] = problems(cache)
    assert text in found
    assert whose is published
    assert check(cache).ok is published


def test_a_component_published_without_a_circuit_cannot_be_fixed_here(tmp_path: Path) -> None:
    report = check(filled(tmp_path, {"notes.txt": b"x"}))
    assert (report.ok, report.provable) == (True, 0)
    assert "published without a circuit" in report.findings[0].text
    assert report.findings[0].component in to_text(report)


def test_a_component_published_without_its_manifest_neither(tmp_path: Path) -> None:
    files = bundle_files("one")
    del files["manifest.msgpack"]
    assert problems(filled(tmp_path, files)) == [("published without manifest.msgpack", True)]


def test_a_component_published_without_weights_neither(tmp_path: Path) -> None:
    assert problems(filled(tmp_path, bundle_files("one"), None)) == [
        ("0 ONNX files in payload, the miner takes exactly one", True)
    ]


def test_a_key_with_a_configuration_that_has_none_is_named(tmp_path: Path) -> None:
    [(text, published)] = problems(cached(tmp_path, key=b"key"))
    assert ("vk.bin" in text, published) == (True, True)
    assert check(cached(tmp_path / "whir", key=b"key", manifest=manifest("goldilocks_ext4_whir"))).provable == 1


@pytest.mark.parametrize("name", ["circuit.bin", "witness_solver.bin", "manifest.msgpack"])
@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_file_lost_here_is_to_be_mended_here(tmp_path: Path, name: str, damage: str) -> None:
    cache = cached(tmp_path)
    file = folder(cache) / "jstprove/circuit.bundle" / name
    file.unlink()
    if damage == "empty":
        file.write_bytes(b"")
    assert problems(cache) == [(f"{name} is {damage}", False)]
    assert not check(cache).ok


def test_weights_lost_doubled_or_changed_here_are_named(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    weights = folder(cache) / "payload/one.onnx"
    content = weights.read_bytes()
    weights.unlink()
    assert problems(cache) == [("payload/one.onnx is missing", False)]
    weights.write_bytes(content[:-1] + b"?")
    assert problems(cache) == []
    assert problems(cache, hashes=True) == [("one.onnx has changed since its download", False)]
    (folder(cache) / "payload/old.onnx").write_bytes(b"x")
    assert problems(cache) == [("2 ONNX files in payload, the miner takes exactly one", False)]


def test_a_slice_of_another_component_or_lost_whole_is_named(tmp_path: Path) -> None:
    cache = cached(tmp_path)
    stamp = folder(cache) / "component.sha"
    stamp.write_text("0" * 64)
    assert problems(cache) == [("it is of component 0000000000000000…", False)]
    stamp.unlink()
    assert problems(cache) == [("its folder or its stamp is missing", False)]
    assert not check(cache).ok


@pytest.mark.parametrize("name", [".dslice_ready", "circuit_metadata.json"])
def test_a_circuit_that_the_miner_would_skip_is_named(tmp_path: Path, name: str) -> None:
    cache = cached(tmp_path)
    (cache / f"model_{sha('net')}" / name).unlink()
    report = check(cache)
    assert not report.ok
    assert name in report.unready[0]


@pytest.mark.parametrize("content", [b"", b"{}", b'[["../..", "x"], ["a"], 7]', b'[["..", "x"], ["/", "x"]]'])
def test_a_damaged_list_of_slices_leads_nowhere(tmp_path: Path, content: bytes) -> None:
    cache = cached(tmp_path)
    (cache / f"model_{sha('net')}" / "component_shas.json").write_bytes(content)
    report = check(cache)
    assert (report.slices, report.provable) == (1, 1)


def test_a_cache_that_the_miner_filled_itself_is_checked_as_well(tmp_path: Path) -> None:
    """Without our record of what is published."""
    cache = cached(tmp_path)
    (cache / ".omron-sync" / "published.json").unlink()
    assert check(cache, hashes=True).provable == 1
    (folder(cache) / "jstprove/circuit.bundle/manifest.msgpack").unlink()
    assert problems(cache) == [("manifest.msgpack is missing", False)]


def test_a_folder_without_circuits_is_not_a_good_cache(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["live", "circuits", "check", "--cache", str(tmp_path)])
    assert done.exit_code == 1
    assert f"no model_<id> folder in {tmp_path}" in done.output


def test_no_cache_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(OmronError, match="sync"):
        check(tmp_path / "none")
