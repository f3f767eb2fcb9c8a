from __future__ import annotations

import shutil
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import pytest

from certificate_samples import DAY, Authority
from omron_miner.constants import Constants, Prover, Provers
from omron_miner.doctor.check import Status
from omron_miner.doctor.provers import certificates
from omron_miner.errors import ConfigError
from omron_miner.provers.certificates import read_certificates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def of_another_ca(place: Path) -> None:
    Authority().issue(place / "other")
    shutil.copy(place / "other/ca.pem", place / "ca.pem")


def of_another_key(place: Path) -> None:
    Authority().issue(place / "other")
    shutil.copy(place / "other/key.pem", place / "key.pem")


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda place: (place / "cert.pem").unlink(), "cannot read .*cert.pem: No such file"),
    "malformed": (lambda place: (place / "ca.pem").write_text("no"), "ca.pem is not a certificate"),
    "no key": (lambda place: (place / "key.pem").write_text("no"), "key.pem is not a private key"),
    "readable key": (lambda place: (place / "key.pem").chmod(0o640), r"others may read .*key.pem \(mode 0640\)"),
    "another CA": (of_another_ca, "cert.pem is not of the CA in .*ca.pem"),
    "another key": (of_another_key, "key.pem is not the key of .*cert.pem"),
}


def test_certificates_that_belong_together_are_taken(tmp_path: Path) -> None:
    found = read_certificates(Authority(days=90).issue(tmp_path, days=20))
    assert found.key == tmp_path / "key.pem"
    assert (found.ends - datetime.now(timezone.utc)).days in (19, 20)


@pytest.mark.parametrize("case", WRONG)
def test_invalid_certificates_are_reported_with_the_reason(tmp_path: Path, case: str) -> None:
    make_wrong, message = WRONG[case]
    make_wrong(Authority().issue(tmp_path))
    with pytest.raises(ConfigError, match=message):
        read_certificates(tmp_path)


def test_expired_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cert\.pem expired at 20"):
        read_certificates(Authority().issue(tmp_path / "host", days=-1))
    with pytest.raises(ConfigError, match=r"ca\.pem expired at 20"):
        read_certificates(Authority(days=-1).issue(tmp_path / "ca"))


def test_one_that_is_not_valid_yet_hints_at_the_clock(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set the host's clock"):
        read_certificates(Authority().issue(tmp_path), datetime.now(timezone.utc) - 20 * DAY)


@pytest.mark.parametrize(("days", "status"), [(60, Status.OK), (5, Status.WARN), (-1, Status.FAIL)])
def test_the_doctor_says_when_they_end(tmp_path: Path, days: float, status: Status) -> None:
    place = Authority(days=90).issue(tmp_path / "certificates", days=days)
    constants = Constants(provers=Provers(certificate_directory=place))
    [check] = certificates(constants)
    assert check.status is status
    assert bool(check.advice) is (status is not Status.OK)


def test_the_doctor_says_nothing_of_them_on_a_host_that_has_none_and_needs_none(tmp_path: Path) -> None:
    provers = Provers(certificate_directory=tmp_path / "none")
    assert list(certificates(Constants(provers=provers))) == []
    [check] = certificates(Constants(provers=provers, prover=Prover(engine="dask")))
    assert check.status is Status.FAIL
