"""The fingerprint of a world: two worlds that have the same go on in the same ways, so one of them is searched."""

from __future__ import annotations

from collections.abc import Hashable

from promise.schedules.actors import Actor
from promise.schedules.wire import FakeMemcached
from promise.schedules.world import World

__all__ = ["fingerprint"]


def fingerprint(world: World) -> Hashable:
    """Everything on which the rest of the schedule, and its check, depends."""
    names = world.names
    if world.memory is not None:
        cache: Hashable = _of_memory(world)
    else:
        cache = tuple([_of_server(world, server) for server in world.servers])
    return (
        names(cache),
        names((world.database.fingerprint(), world.clock.now, world.faults, frozenset(world.robbed))),
        _of_what_may_be_late(world),
        *[_of_actor(world, actor) for actor in world.actors],
    )


def _of_what_may_be_late(world: World) -> Hashable:
    if not world.late and not world.ticks and not world.cut_off:
        return 0
    own = tuple([tuple(actor.acknowledged.items()) for actor in world.actors])
    return world.names((world.settled, own, world.ticks, frozenset(world.cut_off)))


def _of_server(world: World, server: FakeMemcached) -> Hashable:
    items = server.live().items()
    if world.numbered:
        found = frozenset([(key, item[:5]) for key, item in items])
        return server.incarnation, server.running, server.last_cas, found
    return frozenset([(key, item.flags, item.body, item.until, item.won, item.made) for key, item in items])


def _of_actor(world: World, actor: Actor) -> int:
    if actor.parked is None:
        killed = actor in world.killed
        owed = tuple([c.committed for c in actor.connections]) if killed else ()
        return -1 if not killed else -2 - world.names(("killed", owed))
    fence = actor.fence and actor.fence.shown()
    return world.names((actor.seen, None if actor.reads_anew else actor.floor, fence))


def _of_memory(world: World) -> Hashable:
    memory = world.memory
    objects = world.objects
    items = []
    for key, item in memory._items.items():
        known = objects.get(id(item))
        items.append((key, item.epoch, item.until, item.body if known is None else world.name_of(known)))
    stones = []
    for place in (memory._tombstones, memory._group_tombstones):
        for name, found in place.items():
            owners = frozenset([(world.name_of(objects[id(owner)]), end) for owner, end in found.owners.items()])
            stones.append((name, owners))
    return frozenset(items), frozenset(stones), tuple(memory._epochs.items())
