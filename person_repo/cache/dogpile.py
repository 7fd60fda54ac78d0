"""dogpile's face of a backend: a region of ours is also an ordinary dogpile region for its host."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
from dogpile.cache.api import NO_VALUE, BytesBackend, CantDeserializeException, NoValue

from person_repo.interruptions import is_repeated

__all__ = ["DogpileFace", "well_formed"]


class DogpileFace(BytesBackend):
    """Values as msgpack, and the calls for many keys by those for one: ``get_serialized``, ``set_serialized`` and
    ``delete``, which a backend implements.
    """

    @staticmethod
    def serializer(value: Any) -> bytes:
        """dogpile: a value as msgpack. Raises TypeError for a value that msgpack does not carry; give the region a
        serializer of its own then.
        """
        return msgspec.msgpack.encode(value)

    @staticmethod
    def deserializer(value: bytes) -> Any:
        """dogpile: the value of msgpack bytes; anything else is a miss."""
        try:
            return msgspec.msgpack.decode(value)
        except Exception as exc:  # Bytes from a cache are untrusted: whatever they provoke is a miss.
            if not is_repeated(exc, lambda: msgspec.msgpack.decode(value)):
                raise
            raise CantDeserializeException(f"{value[:40]!r} is no msgpack") from exc

    def get_serialized_multi(self, keys: Iterable[str]) -> list[Any]:
        """dogpile: the serialized values, ``NO_VALUE`` for each key that has none."""
        return [self.get_serialized(key) for key in keys]

    def set_serialized_multi(self, mapping: Mapping[str, bytes]) -> None:
        """dogpile: stores serialized values."""
        for key, value in mapping.items():
            self.set_serialized(key, value)

    def delete_multi(self, keys: Iterable[str]) -> None:
        """dogpile: deletes items."""
        for key in keys:
            self.delete(key)


def well_formed(item: bytes) -> bytes | Literal[NoValue.NO_VALUE]:
    """The item, or ``NO_VALUE`` if its metadata cannot be read: dogpile would raise from ``region.get`` for it."""
    try:
        metadata = json.loads(item.partition(b"|")[0])
        return item if {"ct", "v"} <= metadata.keys() and isinstance(metadata["ct"], float) else NO_VALUE
    except (ValueError, AttributeError, RecursionError):
        return NO_VALUE
