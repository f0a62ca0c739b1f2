"""Passwords: which are good enough, and how they are kept.

They are hashed by Argon2id (RFC 9106) with argon2-cffi's defaults.  Where there is no password to
compare with (nobody has the name, or the account has none), another one is compared with, so that
the answer takes as long.
"""

from __future__ import annotations

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from neuronexus_kernel.errors import InvalidInputError

MIN_PASSWORD = 10
MAX_PASSWORD = 1024

_COMMON = ("password", "123456", "qwerty", "letmein", "iloveyou", "welcome", "abc123", "admin")


class Passwords:
    """Hashes passwords and compares with hashes."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher()
        self._decoy = self._hasher.hash(secrets.token_urlsafe())

    def hash(self, password: str, name: str) -> str:
        """Return the hash of a new password of an account, after checking that it is not weak.

        Raises
        ------
        InvalidInputError
            If it is.
        """
        check_password(password, name)
        return self._hasher.hash(password)

    def matches(self, known: str | None, password: object) -> bool:
        """Return whether a password is the one that was hashed; takes as long without a hash."""
        given = password if isinstance(password, str) and len(password) <= MAX_PASSWORD else ""
        try:
            self._hasher.verify(known or self._decoy, given)
        except (Argon2Error, InvalidHashError):
            return False
        return known is not None


def check_password(password: object, name: str) -> None:
    """Refuse a weak password.

    Raises
    ------
    InvalidInputError
        If it is shorter than 10 characters or longer than 1,024, has fewer than 5 different
        ones, or is built from the account's name or one of the most guessed words.
    """
    if isinstance(password, str) and len(password) > MAX_PASSWORD:
        raise InvalidInputError(f"The password is too long: {MAX_PASSWORD} characters at most.")
    if not isinstance(password, str) or len(password) < MIN_PASSWORD:
        raise InvalidInputError(
            f"The password is too short: use at least {MIN_PASSWORD} characters, for example "
            "three or four unrelated words."
        )
    rest = password.lower()
    for word in (name, *_COMMON):
        rest = rest.replace(word, "")
    if len(set(password)) < 5 or len(rest) < MIN_PASSWORD // 2:
        raise InvalidInputError(
            "The password is too easy to guess: use three or four unrelated words."
        )
