"""All settings, as one validated model read from ``constants.toml``.

Ansible renders the file from ``templates/constants.toml.j2``; the package only reads it. The object is read once,
passed in where it is needed and never changed. No other module reads settings.

All durations are seconds, all sizes are bytes unless a name says otherwise. A value that the
subnet's protocol determines says so ("validators …").
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from omron_miner.addresses import is_address, is_loopback
from omron_miner.errors import ConfigError, problems_in_words
from omron_miner.untrusted import parse_toml

if TYPE_CHECKING:
    from collections.abc import Iterator

_DAY = 86_400.0
COPY_DAYS = 7.0
"""Maximum age of a saved validator list, used when the chain is unreachable at start."""
DOWNLOAD_STALL_SECONDS = 30.0
"""A download that receives no byte for this long reconnects."""
NONCE_BACK_SECONDS, NONCE_AHEAD_SECONDS = 4.0, 2.0
"""Maximum age of a signed request, and how far its clock may be ahead of ours: the limits of bittensor's axon."""
DEFAULT_PATH = Path("/etc/omron-miner/constants.toml")

Port = Annotated[int, Field(gt=1024, lt=65535)]
"""bittensor refuses ports outside 1025-65534."""
_LONGEST_SECONDS = 3660 * _DAY
"""Ten years: no timer or date overflows."""
Seconds = Annotated[float, Field(gt=0, le=_LONGEST_SECONDS)]
SecondsOrNever = Annotated[float, Field(ge=0, le=_LONGEST_SECONDS)]
Bytes = Annotated[int, Field(ge=0, le=1 << 50)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Ss58 = Annotated[str, StringConstraints(pattern=r"^5[1-9A-HJ-NP-Za-km-z]{47}$")]
SHA256_HEX = "[a-f0-9]{64}"
"""Pattern of a SHA-256 digest in lower-case hex digits; circuit IDs have this form."""
CircuitId = Annotated[str, StringConstraints(pattern=rf"^{SHA256_HEX}$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Network(_Section):
    """Network and chain."""

    name: Literal["local", "test", "finney"] = Field(
        "local", description="Network: local (no chain, a fixed list of validators), test or finney"
    )
    netuid: int = Field(2, ge=0, le=65535, description="Subnet UID: 2 on finney, 118 on test")
    chain_endpoint: str = Field("", description="WebSocket URL of your own subtensor node; empty = bittensor's default")
    metagraph_sync_seconds: Seconds = Field(3600.0, description="Interval between metagraph refreshes")
    early_sync_seconds: SecondsOrNever = Field(
        600.0, description="Minimum interval between extra refreshes caused by an unknown hotkey; 0 = none"
    )
    call_seconds: Seconds = Field(30.0, description="Timeout of a chain query; extrinsics get 4 times as long")
    copy_file: Path = Field(
        Path("/var/lib/omron-miner/validators.json"),
        description="Copy of the last validator list, used when the chain is unreachable at start",
    )
    local_validator_hotkeys: tuple[Ss58, ...] = Field(
        (), description="Hotkeys that may send requests; local network only"
    )


class Access(_Section):
    """Authorisation of requests."""

    blacklist: bool = Field(
        True, description="Accept only validators; false accepts any signed request, never on a real network"
    )
    minimum_stake: float = Field(1024.0, ge=0, description="Minimum stake of a validator; lower gets 403")
    require_validator_permit: bool = Field(True, description="Accept only hotkeys with a validator permit")
    max_body_bytes: Bytes = Field(1_048_576, ge=1024, description="Maximum request body size; larger ones get 413")
    requests_in_progress: Count = Field(
        64,
        description="Maximum concurrent requests per hotkey; more get 429; 0 = unlimited",
    )
    requests_per_minute: Count = Field(
        600, description="Maximum requests per minute per hotkey; more get 429; 0 = unlimited"
    )


class Wallet(_Section):
    """Wallet: a hotkey only, never a coldkey."""

    path: Path = Field(Path("/var/lib/omron-miner/wallets"), description="Wallet directory in bittensor's layout")
    name: str = Field("miner", pattern=r"^[A-Za-z0-9_.-]+$", description="Wallet name")
    hotkey: str = Field("default", pattern=r"^[A-Za-z0-9_.-]+$", description="Hotkey name")

    @property
    def directory(self) -> Path:
        """The wallet's folder; the hotkey is in its ``hotkeys/``."""
        return self.path / self.name

    @property
    def hotkey_file(self) -> Path:
        """The private hotkey, bittensor's JSON key file."""
        return self.directory / "hotkeys" / self.hotkey


class Axon(_Section):
    """Axon: the address validators connect to."""

    bind_ip: str = Field("0.0.0.0", description="IP address the axon listens on")  # noqa: S104  validators call from anywhere
    port: Port = Field(8091, description="Port the axon listens on, 1025 to 65534")
    external_ip: str = Field("", description="IP address announced on chain; required on a real network")
    external_port: int = Field(0, ge=0, lt=65535, description="Port announced on chain; 0 = same as port")


class Deadlines(_Section):
    """Deadlines of answers and of stopping."""

    circuit_timeout_seconds: Seconds = Field(
        45.0, description="Deadline of an answer; validators give up after 60 s and score slow answers lower"
    )
    external_queue_seconds: Seconds = Field(
        5.0, description="Maximum wait for a free worker; after that the request is refused"
    )
    stop_seconds: Seconds = Field(2.5, description="Time to finish requests after SIGTERM; below kill_seconds")
    kill_seconds: Seconds = Field(3.0, description="Time from SIGTERM until pm2 kills the miner")


class Prover(_Section):
    """Worker processes that make proofs."""

    workers: int = Field(0, ge=0, le=256, description="Maximum concurrent proofs; 0 = number of cores, at most 4")
    threads_per_worker: int = Field(0, ge=0, le=1024, description="Threads per proof; 0 = number of cores")
    recycle_after_tasks: Count = Field(10, ge=1, description="Proofs after which an idle worker process is replaced")
    start_seconds: Seconds = Field(60.0, description="Timeout for a worker process to start and load its keys")
    engine: Literal["local", "dask"] = Field(
        "local", description="Where proofs are made: local (this host only) or dask (prover hosts as well)"
    )
    local_workers: int = Field(
        1,
        ge=0,
        le=256,
        description="With dask: concurrent proofs on this host; 0 = only what no prover host can prove in time",
    )


class Provers(_Section):
    """Prover hosts behind one miner, reached through Dask."""

    miner: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="On a prover host: name of the miner that it proves for; empty = this host is a miner",
    )
    name: str = Field(
        "", pattern=r"^[A-Za-z0-9_.-]*$", description="Name of this prover host in logs and reports; empty = host name"
    )
    bind_ip: str = Field("127.0.0.1", description="IP address that this host's scheduler or prover listens on")
    port: Port = Field(8785, description="Port that a prover host listens on")
    scheduler_host: str = Field(
        "127.0.0.1", min_length=1, description="Address of the scheduler, which runs on the miner's host"
    )
    scheduler_port: Port = Field(8786, description="Port of the scheduler")
    tls: bool = Field(
        True, description="TLS with client certificates; false is allowed only while all addresses are loopback"
    )
    certificate_directory: Path = Field(
        Path("/etc/omron-miner/provers"), description="Directory of ca.pem, cert.pem and key.pem"
    )
    directory: Path = Field(Path("/var/lib/omron-miner/provers"), description="Directory of Dask's temporary files")
    heartbeat_seconds: Seconds = Field(0.5, description="Interval between the miner's calls to each prover host")
    lost_seconds: Seconds = Field(
        2.0, description="A prover host that does not answer for this long gets no work until it answers again"
    )
    verify_again: bool = Field(True, description="Verify proofs from other hosts on the miner's host before sending")


class Circuits(_Section):
    """Circuits, their keys and the SRS."""

    directory: Path = Field(Path("/var/lib/omron-miner/circuits"), description="Directory of the model_<id> folders")
    srs_directory: Path = Field(Path("/var/lib/omron-miner/srs"), description="Directory of the kzg<logrows>.srs files")
    ezkl_directory: Path = Field(
        Path("/var/lib/omron-miner/ezkl"), description="EZKL_REPO_PATH: holds the lookup-table cache"
    )
    ignored: tuple[CircuitId, ...] = Field((), description="Circuit IDs that are never loaded or downloaded")
    download_hosts: tuple[str, ...] = Field(
        (),
        description="Hosts allowed for key downloads, also private ones; empty = public hosts in metadata.json",
    )
    download_plain_http: bool = Field(False, description="Allow downloads of proving keys over unencrypted HTTP")
    download_seconds: Seconds = Field(21_600.0, description="Maximum time of one proving key download per run")
    download_max_bytes: Bytes = Field(
        53_687_091_200, ge=1, description="Maximum size of a proving key; larger ones are refused"
    )


class Competition(_Section):
    """Competition: a circuit that validators download and score."""

    enabled: bool = Field(False, description="Offer a circuit to the competition")
    directory: Path = Field(
        Path("/var/lib/omron-miner/competition"),
        description="Directory of the circuit on offer: model.compiled and settings.json",
    )
    endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?)?$")] = Field(
        "", description="S3 endpoint, e.g. https://ACCOUNT.r2.cloudflarestorage.com; empty = Amazon S3"
    )
    region: str = Field("auto", pattern=r"^[a-z0-9-]+$", description="The bucket's region; auto for Cloudflare R2")
    bucket: str = Field("", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$", description="Bucket name")
    credentials_file: Path = Field(
        Path("/etc/omron-miner/competition-credentials"),
        description="File with the access key and secret; mode 0600, owned by the miner's user",
    )
    status_file: Path = Field(
        Path("/var/lib/omron-miner/competition.json"),
        description="Status file read by `omron-miner competition status`",
    )
    settle_seconds: Seconds = Field(
        10.0, description="Interval between checks of the directory; files unchanged for this long are uploaded"
    )
    recheck_seconds: Seconds = Field(
        600.0, description="Interval between checks that the files are in the bucket and the commitment is on chain"
    )


class Sessions(_Section):
    """Temporary files of requests."""

    directory: Path = Field(
        Path("/dev/shm/omron-miner"),  # noqa: S108
        description="Directory of temporary files on the RAM disk, mode 0700",
    )
    fallback_directory: Path = Field(
        Path("/var/lib/omron-miner/sessions"), description="Directory used when the RAM disk is full"
    )
    minimum_free_bytes: Bytes = Field(67_108_864, description="Free space below which the RAM disk counts as full")


class Log(_Section):
    """Log files; logrotate rotates them."""

    directory: Path = Field(Path("/var/log/omron-miner"), description="Directory of miner.log and events.jsonl")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum level of messages in miner.log"
    )

    @property
    def miner_log(self) -> Path:
        """Log lines for operators."""
        return self.directory / "miner.log"

    @property
    def events(self) -> Path:
        """One JSON object per request, for programs."""
        return self.directory / "events.jsonl"

    @property
    def prover_hosts(self) -> Path:
        """The last status of the prover hosts, for the monitor."""
        return self.directory / "prover-hosts.json"


class Monitor(_Section):
    """The summary, its targets, and the alerts."""

    directory: Path = Field(
        Path("/var/lib/omron-miner"), description="Directory of summary.json, summary.txt and summary.html"
    )
    window_seconds: Seconds = Field(86_400.0, description="Period that the summary covers")
    target_success_percent: float = Field(
        100.0, ge=0, le=100, description="Target: minimum share of requests answered with a verified proof"
    )
    target_proof_seconds: Seconds = Field(30.0, description="Target: maximum p95 of witness and proof time")
    target_overhead_seconds: Seconds = Field(5.0, description="Target: maximum p95 of overhead (total minus proof)")
    target_total_seconds: Seconds = Field(45.0, description="Target: maximum p95 of the total response time")
    target_timeouts: Count = Field(0, description="Target: maximum timeouts in the period")
    keep_minutes_days: float = Field(3.0, ge=1, le=31, description="Retention of per-minute history, in days")
    keep_hours_days: float = Field(180.0, ge=8, le=3660, description="Retention of hourly history, in days")
    alert_file: Path = Field(
        Path("/etc/omron-miner/alerts.toml"), description="Alert destinations: a command, a webhook"
    )
    alert_window_seconds: Seconds = Field(3600.0, description="Period that the alerts on requests and restarts cover")
    alert_no_request_seconds: SecondsOrNever = Field(
        3600.0, description="Alert after this long without a request; 0 = never"
    )
    alert_memory_growth_percent: float = Field(
        25.0, gt=0, description="Alert when the miner's memory grows by this much in a day"
    )
    alert_ram_disk_percent: float = Field(90.0, gt=0, le=100, description="Alert when the RAM disk is this full")
    alert_restarts: Count = Field(2, ge=1, description="Alert at this many restarts in the period, and at any crash")


class Constants(_Section):
    """The whole of constants.toml."""

    network: Network = Network()
    access: Access = Access()
    wallet: Wallet = Wallet()
    axon: Axon = Axon()
    deadlines: Deadlines = Deadlines()
    prover: Prover = Prover()
    provers: Provers = Provers()
    circuits: Circuits = Circuits()
    competition: Competition = Competition()
    sessions: Sessions = Sessions()
    log: Log = Log()
    monitor: Monitor = Monitor()

    @property
    def has_prover_hosts(self) -> bool:
        """Whether this is a miner that may have prover hosts; a prover host itself has none."""
        return self.prover.engine == "dask" and not self.provers.miner

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Constants:
        rules = (_of_addresses, _of_network, _of_competition, _of_provers, _of_times, _of_text, _of_paths)
        if problems := [problem for rule in rules for problem in rule(self)]:
            raise ValueError("; ".join(problems))
        return self


# --- rules between settings: each reports every pair of settings that conflict -------------------------------------


def _of_addresses(constants: Constants) -> Iterator[str]:
    axon = constants.axon
    if axon.bind_ip != "localhost" and not is_address(axon.bind_ip):
        yield f"axon.bind_ip must be an IP address, not {axon.bind_ip!r}"
    if axon.external_ip and not is_address(axon.external_ip):
        yield f"axon.external_ip must be an IP address, not {axon.external_ip!r}"


def _of_network(constants: Constants) -> Iterator[str]:
    if constants.network.name == "local":
        return
    if not constants.access.blacklist:
        yield "access.blacklist must be true on a real network"
    if constants.network.local_validator_hotkeys:
        yield "network.local_validator_hotkeys is for the local network only"
    if not constants.axon.external_ip and not constants.provers.miner:
        yield "axon.external_ip must be set on a real network: validators need an address to call"


def _of_competition(constants: Constants) -> Iterator[str]:
    competition = constants.competition
    if not competition.enabled:
        return
    if not competition.bucket:
        yield "competition.bucket must be set when competition.enabled is true"
    if not competition.endpoint and competition.region == "auto":
        yield "competition.region must be the bucket's region when competition.endpoint is empty (Amazon)"
    if not competition.endpoint and "." in competition.bucket:
        yield "competition.bucket must not contain a dot on Amazon S3: its certificates do not cover such names"


def _of_provers(constants: Constants) -> Iterator[str]:
    provers = constants.provers
    if not is_address(provers.bind_ip):
        yield f"provers.bind_ip must be an IP address, not {provers.bind_ip!r}"
        return
    bound = ip_address(provers.bind_ip)
    if bound.is_unspecified:
        yield "provers.bind_ip must be one address of this host: every address would let others reach the provers"
    if not provers.tls and not (bound.is_loopback and is_loopback(provers.scheduler_host)):
        yield "provers.tls must be true unless provers.bind_ip and provers.scheduler_host are loopback addresses"
    if provers.heartbeat_seconds >= provers.lost_seconds:
        yield "provers.heartbeat_seconds must be below provers.lost_seconds"


def _of_times(constants: Constants) -> Iterator[str]:
    """Pairs of settings: the first must be shorter than, or at most as long as, the second."""
    deadlines, monitor, network = constants.deadlines, constants.monitor, constants.network
    if deadlines.external_queue_seconds >= deadlines.circuit_timeout_seconds:
        yield "deadlines.external_queue_seconds must be below deadlines.circuit_timeout_seconds"
    if deadlines.stop_seconds >= deadlines.kill_seconds:
        yield "deadlines.stop_seconds must be below deadlines.kill_seconds, after which pm2 kills"
    if constants.circuits.download_seconds < DOWNLOAD_STALL_SECONDS:
        yield f"circuits.download_seconds must be at least {DOWNLOAD_STALL_SECONDS:g}, when a download reconnects"
    if network.metagraph_sync_seconds > COPY_DAYS * _DAY:
        yield f"network.metagraph_sync_seconds must be at most {COPY_DAYS:g} days: every copy would be too old"
    for name in ("window_seconds", "alert_window_seconds"):
        if getattr(monitor, name) > monitor.keep_minutes_days * _DAY:
            yield f"monitor.{name} must not be longer than monitor.keep_minutes_days"
    if monitor.keep_minutes_days > monitor.keep_hours_days:
        yield "monitor.keep_minutes_days must not be longer than monitor.keep_hours_days"


def _of_text(constants: Constants) -> Iterator[str]:
    for section, settings in constants.model_dump(mode="json").items():
        for name, value in settings.items():
            if "\0" in (value if isinstance(value, str) else "".join(value) if isinstance(value, list) else ""):
                yield f"{section}.{name} must not contain a NUL character"


def _of_paths(constants: Constants) -> Iterator[str]:
    """Each kind of file has its own path, none below a sessions folder: those are 0700 and are cleaned at start."""
    circuits, sessions, competition = constants.circuits, constants.sessions, constants.competition
    folders = {
        "sessions.directory": sessions.directory,
        "sessions.fallback_directory": sessions.fallback_directory,
        "circuits.directory": circuits.directory,
        "circuits.srs_directory": circuits.srs_directory,
        "circuits.ezkl_directory": circuits.ezkl_directory,
        "competition.directory": competition.directory,
        "wallet.path": constants.wallet.path,
        "provers.directory": constants.provers.directory,
        "provers.certificate_directory": constants.provers.certificate_directory,
    }
    files = {
        "network.copy_file": constants.network.copy_file,
        "competition.status_file": competition.status_file,
        "competition.credentials_file": competition.credentials_file,
        "monitor.alert_file": constants.monitor.alert_file,
    }
    for group in (folders, files):
        for (one, path), (other, same) in combinations(group.items(), 2):
            if path == same:
                yield f"{one} and {other} are both {path}: each needs its own path"
    everything = {**folders, **files, "log.directory": constants.log.directory}
    everything["monitor.directory"] = constants.monitor.directory
    for owner in ("sessions.directory", "sessions.fallback_directory"):
        for name, path in everything.items():
            if folders[owner] in path.parents or (path == folders[owner] and name not in folders):
                yield f"{name} {path} is in {owner}, which is reserved for requests' files"


def parse_constants(text: str, origin: str = "constants.toml") -> Constants:
    """Constants from TOML `text`; `origin` names it in errors.

    Raises ConfigError naming every unknown, missing or ill-typed key.
    """
    try:
        # Through JSON: pydantic's strict mode then takes strings for paths and lists for tuples, not "8091" for 8091.
        content = json.dumps(parse_toml(text), default=str)
    except (ValueError, RecursionError) as error:  # the second from JSON: dotted keys may nest indefinitely
        raise ConfigError(f"{origin} is not valid TOML: {error}", "correct the file or run the play again") from error
    try:
        return Constants.model_validate_json(content)
    except ValidationError as error:
        hint = "correct the named keys or run the play again"
        raise ConfigError(f"{origin}: {problems_in_words(error)}", hint) from error


def read_constants(path: Path = DEFAULT_PATH) -> Constants:
    """Constants from the file at `path`. Raises ConfigError when it is missing, unreadable or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "run the play, or name a file with --config") from error
    return parse_constants(text, str(path))
