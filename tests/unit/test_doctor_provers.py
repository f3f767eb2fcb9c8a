"""The doctor on a miner's host says which prover hosts get no work, and why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from omron_miner.constants import Constants, Log, Prover, Provers
from omron_miner.doctor.check import Status
from omron_miner.doctor.provers import hosts
from omron_miner.provers.status import HostState, ProversStatus, write_status

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_767_614_400.0
LOCAL = HostState("this host", "", True, "", NOW - 9000, 1, 1, 0, 10, 0)
WELL = replace(LOCAL, name="prover-1", address="tls://10.0.0.2:8785")
LOST = replace(WELL, name="prover-2", gets_work=False, state="it did not answer for 2 s")


def test_a_prover_host_that_gets_no_work_is_named_with_the_reason(tmp_path: Path) -> None:
    constants = Constants(prover=Prover(engine="dask"), log=Log(directory=tmp_path))
    [missing] = hosts(constants, NOW)
    assert missing.status is Status.FAIL
    assert "No such file" in missing.live
    for states, status, live in (
        ((LOCAL,), Status.OK, "0 of 0 get work"),
        ((LOCAL, WELL), Status.OK, "1 of 1 get work"),
        ((LOCAL, WELL, LOST), Status.WARN, "1 of 2 get work; prover-2: it did not answer for 2 s"),
    ):
        write_status(constants.log.prover_hosts, ProversStatus(NOW - 3, 0, states))
        [check] = hosts(constants, NOW)
        assert (check.status, check.live) == (status, live)
    [old] = hosts(constants, NOW + 3600)
    assert (old.status, "was written" in old.live) == (Status.FAIL, True)


def test_a_host_without_others_has_no_such_check(tmp_path: Path) -> None:
    for constants in (Constants(), Constants(prover=Prover(engine="dask"), provers=Provers(miner="m"))):
        assert list(hosts(constants.model_copy(update={"log": Log(directory=tmp_path)}), NOW)) == []
