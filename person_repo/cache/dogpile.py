"""dogpile's face of a backend: a region of ours is also an ordinary dogpile region for its host."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dogpile.cache.api import BytesBackend, CantDeserializeException

from person_repo.cache import values
from person_repo.interruptions import is_repeated

__all__ = ["DogpileFace", "is_dogpiles"]


class DogpileFace(BytesBackend):
    """Values as msgpack, unless the region has a serializer of its own, and the calls for many keys by those for one:
    ``get_serialized``, ``set_serialized`` and ``delete``, which a backend implements.

    A backend returns the bytes that it was given, whatever they are: a ``ProxyBackend`` that compresses or encrypts
    makes bytes that only it can read.
    """

    @staticmethod
    def serializer(value: Any) -> bytes:
        """dogpile: a value as msgpack, from which an equal one of the same type comes back. Raises TypeError for a
        value of another type than its message lists; give the region a serializer of its own then.
        """
        return values.encode(value)

    @staticmethod
    def deserializer(value: bytes) -> Any:
        """dogpile: the value of such bytes; anything else is a miss."""
        try:
            return values.decode(value)
        except Exception as exc:  # Bytes from a cache are untrusted: whatever they provoke is a miss.
            if not is_repeated(exc, lambda: values.decode(value)):
                raise
            raise CantDeserializeException(f"{value[:40]!r} is no value of a region") from exc

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


def is_dogpiles(item: bytes) -> bool:
    """True if dogpile can read the item's metadata; ``region.get`` would raise if it cannot. False for what a
    ``ProxyBackend`` has made of an item, too.
    """
    try:
        metadata = json.loads(item.partition(b"|")[0])
        made_at = metadata["ct"]
        # A clock of whole seconds makes an integer, which json reads in any size; dogpile calculates with floats.
        return "v" in metadata and type(made_at) in (int, float) and isinstance(float(made_at), float)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False
