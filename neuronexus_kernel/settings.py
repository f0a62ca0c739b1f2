"""Settings: where things are and how much is allowed, from the environment.

Nothing here is read at import time: `Settings.load` looks at the environment when it is called,
so that a test or a notebook can change it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from neuronexus_kernel.errors import InvalidInputError

MIB = 1024 * 1024

SECRETS = frozenset(
    {
        "INFURA_IPFS_ID",
        "INFURA_IPFS_SECRET",
        "JUPYTERHUB_API_TOKEN",
        "JPY_API_TOKEN",
        "NEURONEXUS_DATABASE",
        "NEURONEXUS_IPFS",
        "NEURONEXUS_PINNING_TOKEN",
        "NEURONEXUS_TOKEN",
        "SESSION_SECRET",
    }
)
"""Variables that hold credentials, or may: addresses can have a password in them."""


def environment_without_secrets() -> dict[str, str]:
    """Return the environment for a child process that needs none of our credentials."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def home_directory() -> Path:
    """Return ``$NEURONEXUS_HOME``, by default the platform's folder for user data."""
    configured = os.environ.get("NEURONEXUS_HOME")
    if configured:
        return Path(configured).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("neuronexus", appauthor=False)


def data_directory() -> Path:
    """Return ``$NEURONEXUS_DATA``, where public data sets are kept; else ``data`` in the home."""
    configured = os.environ.get("NEURONEXUS_DATA")
    return Path(configured).expanduser().resolve() if configured else home_directory() / "data"


@dataclass(frozen=True, slots=True)
class EvaluationLimits:
    """What one evaluation may use before it is ended as ``failed``.

    Attributes
    ----------
    seconds
        Wall-clock time of one evaluation.
    memory
        Private memory of the child process, in bytes.
    per_day
        Evaluations that one account may ask for within 24 hours.
    """

    seconds: float = 600.0
    memory: int = 4096 * MIB
    per_day: int = 50


@dataclass(frozen=True, slots=True)
class ArchitectureLimits:
    """Bounds on a graph, checked before anything is allocated.

    Attributes
    ----------
    nodes
        How many there may be.
    depth
        How many may follow one another.
    parameters
        Numbers in all its weights and running statistics.
    activations
        Numbers that a pass of one example holds in memory: what its nodes leave for the
        gradient, and the most that one of them needs besides while it runs.
    flops
        Floating-point operations of a forward pass of one example.
    """

    nodes: int = 1_000
    depth: int = 500
    parameters: int = 50_000_000
    activations: int = 50_000_000
    flops: int = 10**11

    @classmethod
    def load(cls) -> ArchitectureLimits:
        """Read the bounds from the environment, ``NEURONEXUS_ARCHITECTURE_NODES`` and so on.

        Raises
        ------
        InvalidInputError
            If a variable does not hold a number above zero; the message names it.
        """
        standard = cls()
        variables = {
            each.name: f"NEURONEXUS_ARCHITECTURE_{each.name.upper()}" for each in fields(cls)
        }
        return cls(
            **{
                name: int(_number(variable, getattr(standard, name)))
                for name, variable in variables.items()
            }
        )


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """Who gets an account on a hub, and how long a sign-in lasts.

    Attributes
    ----------
    registration
        ``"open"``: everybody may register; ``"invited"``: with an operator's invitation;
        ``"closed"``: nobody, operators make the accounts.
    session_hours
        After so long a sign-in ends, however much it is used.
    idle_hours
        After so long without being used a sign-in ends.
    renew_hours
        After so long a sign-in that is used gets a new token.
    secret
        Key of the hub's signatures, or None for one that is kept in its home.  With another one,
        every browser has to sign in again.
    """

    registration: str = "open"
    session_hours: float = 168.0
    idle_hours: float = 72.0
    renew_hours: float = 24.0
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.registration not in ("open", "invited", "closed"):
            raise InvalidInputError(
                "NEURONEXUS_REGISTRATION (registration) is open, invited or closed, not "
                f"{self.registration!r}."
            )
        if self.secret is not None and len(self.secret) < 32:
            raise InvalidInputError(
                "SESSION_SECRET is too short to be a secret: give it 32 characters or more, for "
                "example from `openssl rand -hex 32`, or leave it out."
            )

    @classmethod
    def load(cls) -> AccountSettings:
        """Read the settings from the environment.

        Raises
        ------
        InvalidInputError
            If a variable holds something else than it may; the message names it.
        """
        standard = cls()
        return cls(
            registration=os.environ.get("NEURONEXUS_REGISTRATION", standard.registration),
            session_hours=_number("NEURONEXUS_SESSION_HOURS", standard.session_hours),
            idle_hours=_number("NEURONEXUS_SESSION_IDLE_HOURS", standard.idle_hours),
            renew_hours=_number("NEURONEXUS_SESSION_RENEW_HOURS", standard.renew_hours),
            secret=os.environ.get("SESSION_SECRET") or None,
        )


@dataclass(frozen=True, slots=True)
class FederationSettings:
    """How a hub serves federations to other machines.

    Attributes
    ----------
    address
        ``HOST:PORT`` where a SuperLink listens; port 0 takes a free one.  Loopback by default:
        only this machine can take part.
    name
        Under which other machines reach it; needed where HOST is ``0.0.0.0`` or ``::``.
    most
        How many may run at the same time.
    """

    address: str = "127.0.0.1:0"
    name: str = ""
    most: int = 4

    @classmethod
    def load(cls) -> FederationSettings:
        """Read the settings from the environment."""
        return cls(
            address=os.environ.get("NEURONEXUS_FEDERATION_ADDRESS", cls().address),
            name=os.environ.get("NEURONEXUS_FEDERATION_NAME", ""),
        )


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """How a content store on disk writes, and how much it may hold.

    Attributes
    ----------
    quota
        The most bytes that its blocks may have, or None for as many as the disk takes.
    folder
        Where the content stores lie, or None for the hub's home.  Hubs that share a database share
        this folder too.
    fsync
        ``"always"``: what was acknowledged survives a power failure.  ``"never"``: the operating
        system writes it when it likes, which is faster and survives the end of the process, but
        not that of the computer; for stores that are thrown away.
    """

    quota: int | None = None
    fsync: str = "always"
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.fsync not in ("always", "never"):
            raise InvalidInputError(
                f"NEURONEXUS_STORE_FSYNC (fsync) is always or never, not {self.fsync!r}."
            )
        if self.quota is not None and self.quota <= 0:
            raise InvalidInputError(f"A quota is a number of bytes above zero, not {self.quota}.")

    @classmethod
    def load(cls) -> StorageSettings:
        """Read ``NEURONEXUS_STORE_QUOTA_MIB``, ``..._FSYNC`` and ``..._FOLDER``.

        Raises
        ------
        InvalidInputError
            If a variable holds something else than it may; the message names it.
        """
        has_quota = "NEURONEXUS_STORE_QUOTA_MIB" in os.environ
        folder = os.environ.get("NEURONEXUS_STORE_FOLDER")
        return cls(
            quota=int(_number("NEURONEXUS_STORE_QUOTA_MIB", 1) * MIB) if has_quota else None,
            fsync=os.environ.get("NEURONEXUS_STORE_FSYNC", cls().fsync),
            folder=Path(folder).expanduser().resolve() if folder else None,
        )


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How many requests a hub's API answers.

    Attributes
    ----------
    per_second
        What one account, or one address of visitors who are not signed in, may ask for without
        end; None for as many as come.
    burst
        Seconds of that which may be asked for at once.
    """

    per_second: float | None = 500.0
    burst: float = 10.0

    @classmethod
    def load(cls) -> RequestSettings:
        """Read ``NEURONEXUS_REQUESTS_PER_SECOND``, a number or ``unlimited``.

        Raises
        ------
        InvalidInputError
            If it is something else.
        """
        variable = "NEURONEXUS_REQUESTS_PER_SECOND"
        if os.environ.get(variable) == "unlimited":
            return cls(per_second=None)
        return cls(per_second=_number(variable, cls().per_second or 0))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one hub.

    Attributes
    ----------
    home
        Folder that holds the database, the content store and the keys.
    upload_limit
        Largest object accepted by the hub, in bytes.
    archive_limit
        Largest archive of a project that it takes in, in bytes.
    accounts
        Who gets an account, and how long a sign-in lasts.
    federation
        Where federations over many machines are served.
    storage
        How its content stores write, and how much each of them may hold.
    database
        ``postgresql+psycopg://...`` for records on a PostgreSQL server; empty for a DuckDB file in
        the home.
    requests
        How many requests its API answers.
    """

    home: Path = field(default_factory=home_directory)
    upload_limit: int = 512 * MIB
    archive_limit: int = 16 * 1024 * MIB
    evaluation: EvaluationLimits = field(default_factory=EvaluationLimits)
    accounts: AccountSettings = field(default_factory=AccountSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    database: str = field(default="", repr=False)
    requests: RequestSettings = field(default_factory=RequestSettings)

    @classmethod
    def load(cls, home: Path | str | None = None) -> Settings:
        """Read the settings from the environment.

        Parameters
        ----------
        home
            Overrides ``$NEURONEXUS_HOME``.

        Raises
        ------
        InvalidInputError
            If a variable does not hold a number above zero; the message names it.
        """
        standard = EvaluationLimits()
        limits = EvaluationLimits(
            seconds=_number("NEURONEXUS_EVALUATION_SECONDS", standard.seconds),
            memory=int(_number("NEURONEXUS_EVALUATION_MEMORY_MIB", standard.memory / MIB) * MIB),
            per_day=int(_number("NEURONEXUS_EVALUATIONS_PER_DAY", standard.per_day)),
        )
        folder = Path(home).expanduser().resolve() if home is not None else home_directory()
        return cls(
            home=folder,
            evaluation=limits,
            accounts=AccountSettings.load(),
            federation=FederationSettings.load(),
            storage=StorageSettings.load(),
            database=os.environ.get("NEURONEXUS_DATABASE", ""),
            requests=RequestSettings.load(),
        )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise InvalidInputError(f"{variable} must be a number above zero, not {text!r}.")
    return value
