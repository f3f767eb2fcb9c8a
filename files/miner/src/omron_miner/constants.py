"""Every number an operator may set, as one validated model read from ``constants.toml``.

Ansible renders the file from ``templates/constants.toml.j2``; the package only reads it. The object is read once,
passed in where it is needed and never changed. Nothing else in the package reads settings from anywhere.

All durations are seconds, all sizes are bytes unless a name says otherwise. Numbers that come from the subnet's
protocol name their place in it ("validators …").
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from omron_miner.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # Ubuntu 22.04
    import tomli as tomllib

DEFAULT_PATH = Path("/etc/omron-miner/constants.toml")

Port = Annotated[int, Field(gt=1024, lt=65535)]
"""bittensor refuses ports outside 1025-65534."""
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Ss58 = Annotated[str, StringConstraints(pattern=r"^5[1-9A-HJ-NP-Za-km-z]{47}$")]
CircuitId = Annotated[str, StringConstraints(pattern=r"^[a-f0-9]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Network(_Section):
    """Which chain, and how often it is asked."""

    name: Literal["local", "test", "finney"] = Field("local", description="local: no chain, a fixed list of validators")
    netuid: int = Field(2, ge=0, le=65535, description="subnet: 2 on finney, 118 on test")
    chain_endpoint: str = Field("", description="websocket address of a node of your own; empty: bittensor's default")
    metagraph_sync_seconds: Seconds = Field(3600.0, description="how often the list of validators is refreshed")
    registration_check_seconds: Seconds = Field(600.0, description="how often our own registration is looked up")
    early_sync_seconds: float = Field(
        600.0, ge=0, description="a refused hotkey has the list read anew, at most so often; 0: never"
    )
    call_seconds: Seconds = Field(
        30.0, description="longest wait for an answer of the chain; 4 times it for extrinsics"
    )
    copy_file: Path = Field(
        Path("/var/lib/omron-miner/validators.json"),
        description="the last list of validators, to start with",
    )
    copy_days: float = Field(7.0, gt=0, description="a copy older than this is not used at the start")
    local_validator_hotkeys: tuple[Ss58, ...] = Field((), description="on local: the hotkeys that may ask")


class Access(_Section):
    """Who may ask."""

    blacklist: bool = Field(True, description="false lets any signed request in; never on a real network")
    minimum_stake: float = Field(1024.0, ge=0, description="stake below which a hotkey is refused")
    require_validator_permit: bool = Field(True, description="refuse hotkeys without a validator permit")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="larger request bodies are refused unread (413)")
    max_body_depth: int = Field(32, ge=8, le=128, description="JSON nested deeper than this is refused (422)")
    requests_in_progress: int = Field(64, ge=0, description="of one hotkey at a time, more are refused (429); 0: any")
    requests_per_minute: int = Field(600, ge=0, description="of one hotkey, more are refused (429); 0: any")
    nonce_back_seconds: Seconds = Field(4.0, description="signed HTTP requests older than this are refused (401)")
    nonce_ahead_seconds: Seconds = Field(2.0, description="how far a caller's clock may be ahead of ours there")


class Wallet(_Section):
    """Where the hotkey is. A coldkey must never be here."""

    path: Path = Field(Path("/var/lib/omron-miner/wallets"), description="folder of wallets, bittensor's layout")
    name: str = Field("miner", pattern=r"^[A-Za-z0-9_.-]+$", description="the wallet's folder")
    hotkey: str = Field("default", pattern=r"^[A-Za-z0-9_.-]+$", description="the hotkey's file in it")

    @property
    def directory(self) -> Path:
        """The wallet's folder; the hotkey lies in its ``hotkeys/``."""
        return self.path / self.name

    @property
    def hotkey_file(self) -> Path:
        """The private hotkey, bittensor's JSON key file."""
        return self.directory / "hotkeys" / self.hotkey


class Axon(_Section):
    """Where validators reach the miner."""

    bind_ip: str = Field("0.0.0.0", description="address the port is opened on")  # noqa: S104  validators call from anywhere
    port: Port = Field(8091, description="port validators call; bittensor wants 1025 to 65534")
    external_ip: str = Field("", description="address told to the chain; empty: bind_ip, which a real network refuses")
    external_port: int = Field(0, ge=0, lt=65535, description="port told to the chain; 0: the same as port")


class Deadlines(_Section):
    """When an answer is due."""

    circuit_timeout_seconds: Seconds = Field(45.0, description="answer due; validators wait 60 s and score less before")
    external_queue_seconds: Seconds = Field(5.0, description="longest wait for a free prover before refusing")
    stop_seconds: Seconds = Field(2.5, description="time to finish after SIGTERM; pm2 kills after 3 s")


class Prover(_Section):
    """The worker processes that prove."""

    workers: int = Field(0, ge=0, le=256, description="most proofs at a time; 0: as many as cores, at most 4")
    threads_per_worker: int = Field(0, ge=0, le=1024, description="threads a proof may use; 0: as many as cores")
    recycle_after_tasks: int = Field(10, ge=1, description="a worker is replaced after this many proofs, when idle")
    verify_retries: int = Field(1, ge=0, le=3, description="proofs made anew when one does not verify, time allowing")
    compact_proofs: bool = Field(True, description="send proofs without EZKL's readable copy of the instances")
    start_seconds: Seconds = Field(60.0, description="a worker that is not ready by then is a failure")


class Circuits(_Section):
    """Circuits, their keys and the SRS."""

    directory: Path = Field(Path("/var/lib/omron-miner/circuits"), description="one folder model_<id> a circuit")
    srs_directory: Path = Field(Path("/var/lib/omron-miner/srs"), description="kzg<logrows>.srs files")
    ezkl_directory: Path = Field(Path("/var/lib/omron-miner/ezkl"), description="EZKL_REPO_PATH: lookup-table cache")
    cache_size: int = Field(32, ge=1, description="circuits whose metadata is kept in memory")
    ignored: tuple[CircuitId, ...] = Field((), description="circuit ids that are never loaded nor fetched")
    download_hosts: tuple[str, ...] = Field((), description="hosts keys come from; empty: those metadata.json names")
    download_plain_http: bool = Field(False, description="let keys come unencrypted, from http:// addresses")
    download_seconds: Seconds = Field(21_600.0, description="longest a key's download may take in one run")
    download_stall_seconds: Seconds = Field(30.0, description="without a byte for so long, connect anew")
    download_tries: int = Field(6, ge=1, le=100, description="connections in a row without a byte before giving up")
    download_max_bytes: int = Field(53_687_091_200, ge=1, description="larger keys are refused")
    download_keep_free_bytes: int = Field(1_073_741_824, ge=0, description="disk space a download must leave free")


class Competition(_Section):
    """The competition: a circuit of ours that validators fetch from storage and score."""

    enabled: bool = Field(
        False, description="whether a circuit is offered; false: validators get upstream's words for none"
    )
    directory: Path = Field(Path("/var/lib/omron-miner/competition"), description="model.compiled and settings.json")
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?)?$")] = Field(
        "", description="S3 storage: https://ACCOUNT.r2.cloudflarestorage.com; empty: Amazon's"
    )
    region: str = Field("auto", pattern=r"^[a-z0-9-]+$", description="the bucket's region; auto at Cloudflare")
    bucket: str = Field("", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$", description="the bucket's name")
    credentials_file: Path = Field(
        Path("/etc/omron-miner/competition-credentials"), description="access key and secret, 0600, the miner's own"
    )
    status_file: Path = Field(
        Path("/var/lib/omron-miner/competition.json"), description="what `competition status` shows, written here"
    )
    check_seconds: Seconds = Field(60.0, description="how often the folder is looked at")
    settle_seconds: Seconds = Field(10.0, description="files are taken when nothing wrote to them for so long")
    recheck_seconds: Seconds = Field(600.0, description="how often storage and chain are asked whether all is there")
    url_seconds: int = Field(3600, ge=600, le=604_800, description="how long a URL lets a validator fetch")


class Sessions(_Section):
    """Where a request's temporary files live."""

    directory: Path = Field(Path("/dev/shm/omron-miner"), description="on the RAM disk, 0700")  # noqa: S108
    fallback_directory: Path = Field(
        Path("/var/lib/omron-miner/sessions"), description="used when the RAM disk is full"
    )
    minimum_free_bytes: int = Field(67_108_864, ge=0, description="less free than this counts as full")


class Capacities(_Section):
    """What validators are told of the circuits' capacities; they only log it."""

    compute_units: tuple[tuple[CircuitId, Annotated[int, Field(ge=0)]], ...] = Field(
        (), description="circuit id and its units; for others, the most proofs at a time"
    )


class Reset(_Section):
    """The bonds reset of upstream's miners, which validators no longer ask for."""

    bonds: bool = Field(False, description="reset our bonds on upstream's schedule; replaces a text commitment")


class Log(_Section):
    """What is written where; rotation is logrotate's."""

    directory: Path = Field(Path("/var/log/omron-miner"), description="miner.log and events.jsonl go here")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line in miner.log")

    @property
    def miner_log(self) -> Path:
        """Lines for people."""
        return self.directory / "miner.log"

    @property
    def events(self) -> Path:
        """One JSON object a request, for machines."""
        return self.directory / "events.jsonl"


class Monitor(_Section):
    """The summary, what it holds the miner to, and when to alert."""

    directory: Path = Field(Path("/var/lib/omron-miner"), description="where summary.json, .txt and .html go")
    window_seconds: Seconds = Field(86_400.0, description="requests older than this are not in the summary")
    target_success_percent: float = Field(100.0, ge=0, le=100, description="least share of verified answers")
    target_proof_seconds: Seconds = Field(30.0, description="p95 of witness and proof at most this")
    target_overhead_seconds: Seconds = Field(5.0, description="p95 of everything we add below this")
    target_total_seconds: Seconds = Field(45.0, description="p95 of the whole answer below this")
    target_timeouts: int = Field(0, ge=0, description="most timeouts in the window")
    read_bytes_per_run: int = Field(1_048_576, ge=65_536, description="most of the event log that one run reads")
    keep_minutes_days: float = Field(3.0, ge=1, le=31, description="days of which every minute is kept")
    keep_hours_days: float = Field(180.0, ge=8, le=3660, description="days of which every hour is kept")
    alert_file: Path = Field(Path("/etc/omron-miner/alerts.toml"), description="whom to tell: a command, a webhook")
    alert_window_seconds: Seconds = Field(3600.0, description="alerts look at requests and restarts of this long")
    alert_clear_seconds: float = Field(600.0, ge=0, description="an alert clears when all was well for this long")
    alert_no_request_seconds: float = Field(3600.0, ge=0, description="alert without a request for so long; 0: never")
    alert_memory_growth_percent: float = Field(25.0, gt=0, description="alert when the miner grows so much in a day")
    alert_ram_disk_percent: float = Field(90.0, gt=0, le=100, description="alert when the RAM disk is this full")
    alert_restarts: int = Field(2, ge=1, description="alert at so many restarts, and at any crash")


class Constants(_Section):
    """The whole of constants.toml."""

    network: Network = Network()
    access: Access = Access()
    wallet: Wallet = Wallet()
    axon: Axon = Axon()
    deadlines: Deadlines = Deadlines()
    prover: Prover = Prover()
    circuits: Circuits = Circuits()
    competition: Competition = Competition()
    sessions: Sessions = Sessions()
    capacities: Capacities = Capacities()
    reset: Reset = Reset()
    log: Log = Log()
    monitor: Monitor = Monitor()

    @model_validator(mode="after")
    def _real_networks_are_guarded(self) -> Constants:
        if self.network.name == "local":
            if self.reset.bonds:
                raise ValueError("reset.bonds is for real networks only")
        else:
            if not self.access.blacklist:
                raise ValueError("access.blacklist must be true on a real network")
            if self.network.local_validator_hotkeys:
                raise ValueError("network.local_validator_hotkeys is for the local network only")
            if not self.axon.external_ip:
                raise ValueError("axon.external_ip must be set on a real network: validators need an address to call")
        self._competition_is_whole()
        if self.monitor.window_seconds > self.monitor.keep_minutes_days * 86_400:
            raise ValueError("monitor.window_seconds must not be longer than monitor.keep_minutes_days")
        if self.deadlines.external_queue_seconds >= self.deadlines.circuit_timeout_seconds:
            raise ValueError("deadlines.external_queue_seconds must be below deadlines.circuit_timeout_seconds")
        return self

    def _competition_is_whole(self) -> None:
        competition = self.competition
        if not competition.enabled:
            return
        if not competition.bucket:
            raise ValueError("competition.bucket must be set when competition.enabled is true")
        if not competition.endpoint and competition.region == "auto":
            raise ValueError("competition.region must be the bucket's own where competition.endpoint is empty (Amazon)")
        if not competition.endpoint and "." in competition.bucket:
            raise ValueError("competition.bucket must have no dot at Amazon, whose certificates do not cover it")


def parse_constants(text: str, origin: str = "constants.toml") -> Constants:
    """Constants from TOML `text`; `origin` names it in errors.

    Raises ConfigError naming every unknown, missing or ill-typed key at once.
    """
    try:
        # By way of JSON: there pydantic's strict mode takes a path's string and a tuple's list, but no "8091" for 8091.
        return Constants.model_validate_json(json.dumps(tomllib.loads(text), default=str))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}", "correct the file or run the play again") from error
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigError(f"{origin}: {problems}", "correct the named keys or run the play again") from error


def read_constants(path: Path = DEFAULT_PATH) -> Constants:
    """Constants from the file at `path`. Raises ConfigError when it is missing, unreadable or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "run the play, or name a file with --config") from error
    return parse_constants(text, str(path))
