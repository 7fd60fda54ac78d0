"""Values sealed with a secret: without it nobody can read one, forge one, or move one to another key.

A sealed value (fixed by a golden test)::

    version: 1 byte | key id: 4 bytes | salt: 24 bytes | AES-256-GCM(message key, value), its 16 bytes of tag last

    master key  = BLAKE2b-256(secret)                  a secret has its strength from its length: no slow hash
    key id      = BLAKE2b-32 keyed with the master key
    message key = BLAKE2b-256 keyed with the master key, of the salt

The version, the key id and the full cache key are authenticated with the value. Pure but for the source of random
bytes, which can be given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from person_repo.exceptions import ConfigurationError, SealError
from person_repo.settings import LEAST_SECRET, check_secrets, split_secrets

__all__ = ["LEAST_SECRET", "OVERHEAD", "VERSION", "Seal", "SealError"]

VERSION: Final = 1
"""The version of the layout above. Below 128, so that no sealed value begins as an item in msgpack does."""

_KEY_ID: Final = 4
_SALT: Final = 24
_TAG: Final = 16
_HEAD: Final = 1 + _KEY_ID
_BODY: Final = _HEAD + _SALT

OVERHEAD: Final = _BODY + _TAG
"""Bytes that sealing adds to a value."""

# GCM breaks if one key meets one nonce twice. Nonces of 12 random bytes are good for 2^32 messages under one key
# (NIST SP 800-38D, 8.3), which is 50 days at a thousand fills a second, and processes that share a secret share no
# counter. So each message has a key of its own, derived from 24 random bytes, and the nonce is constant: among 2^64
# messages two share a salt with a probability of 2^-65. This is the construction of DNDK-GCM
# (draft-gueron-cfrg-dndkgcm-01: a key derived from a random nonce of 24 bytes, then GCM with a nonce of zeros) and the
# idea of XChaCha20; keyed and personalized BLAKE2b for the derivation is that of libsodium's crypto_kdf.
_NONCE: Final = bytes(12)


class Seal:
    """Seals values with the first of these secrets, and opens values sealed with any of them. Safe for threads.

    ``secrets``: random strings of at least 16 bytes. ``random``: returns so many random bytes.

    Raises ``ConfigurationError`` for no secret, for one that is too short, and if the package ``cryptography`` is not
    installed. No message shows a secret.
    """

    __slots__ = ("_aead", "_head", "_invalid", "_masters", "_random")

    def __init__(self, secrets: Sequence[str], *, random: Callable[[int], bytes] = os.urandom) -> None:
        check_secrets(secrets)
        # Not at the top: the package is an extra, and takes longer to import than all the rest of this one.
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as exc:
            raise ConfigurationError(
                "secret is given, and sealing needs the package cryptography: pip install 'person-repo[cryptography]'"
            ) from exc
        self._aead = AESGCM
        self._invalid = InvalidTag
        self._random = random
        masters = [_master(secret.encode(errors="surrogatepass")) for secret in secrets]
        self._head = _head(masters[0])
        # Backwards, so that of two secrets with one key id (one pair of 2^32 has) the first is kept, which seals.
        self._masters = {_head(master): master for master in reversed(masters)}

    @classmethod
    def of(cls, secrets: str) -> Seal | None:
        """The seal of secrets separated by commas; None for an empty string. Raises ``ConfigurationError``."""
        return cls(split_secrets(secrets)) if secrets else None

    def seal(self, value: bytes, key: str) -> bytes:
        """The sealed value: ``OVERHEAD`` bytes longer, different at each call, good for this cache key alone."""
        head = self._head
        salt = self._random(_SALT)
        cipher = self._aead(_message_key(self._masters[head], salt))
        return head + salt + cipher.encrypt(_NONCE, value, _associated(head, key))

    def open(self, sealed: bytes, key: str) -> bytes:
        """The value that was sealed for this cache key. Raises ``SealError`` for any other bytes."""
        head = sealed[:_HEAD]
        master = self._masters.get(head)
        if master is None:
            raise SealError("not sealed with a secret that is known here")
        cipher = self._aead(_message_key(master, sealed[_HEAD:_BODY]))
        try:
            return cipher.decrypt(_NONCE, sealed[_BODY:], _associated(head, key))
        except self._invalid as exc:
            raise SealError("sealed for another key, damaged or forged") from exc


def _master(secret: bytes) -> bytes:
    return blake2b(secret, digest_size=32, person=b"person_repo.seal").digest()


def _head(master: bytes) -> bytes:
    """The first bytes of every value that is sealed with this master key."""
    return bytes([VERSION]) + blake2b(key=master, digest_size=_KEY_ID, person=b"person_repo.id").digest()


def _message_key(master: bytes, salt: bytes) -> bytes:
    return blake2b(salt, key=master, digest_size=32, person=b"person_repo.msg").digest()


def _associated(head: bytes, key: str) -> bytes:
    return head + key.encode(errors="surrogatepass")
