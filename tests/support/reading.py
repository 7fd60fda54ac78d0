"""A process that reads people while another one writes them."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.synchronize import Event as EventType
from typing import Any

from person_repo import connect

__all__ = ["read_until"]


def read_until(
    over: EventType, begun: Any, acknowledged: Any, ids: Sequence[str], database_url: str, cache_url: str, said: Any
) -> None:
    """Reads every person again and again: never less than was acknowledged before the read began.

    ``acknowledged`` has the number that each person was last given, ``begun`` counts the processes that read. At its
    end it sends ``said`` its wrong reads, the number of reads, and the number of hits.
    """
    wrong: list[str] = []
    reads = 0
    with connect(database_url, cache_url) as people:
        people.get_many(ids)
        begun.release()
        while not over.is_set() and not wrong:
            least = list(acknowledged)
            found = people.get_many(ids) if reads % 2 else {id: people.get_one(id) for id in ids}
            wrong += [
                f"{id} is {found[id]}; number {number} was acknowledged before"
                for id, number in zip(ids, least, strict=True)
                if int(found[id].first_name) < number or found[id].version != int(found[id].first_name) + 1
            ]
            reads += 1
        said.put((wrong, reads, people.stats().hits))
