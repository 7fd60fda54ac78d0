"""What the package costs, side by side with the floor and with its peers, in one run: ``make bench``.

How the figures are taken
-------------------------

**Ratios, not times.** The machine is shared and noisy, and yours is another one. Every figure that is judged is a
ratio of two contestants of the same run.

**Interleaved rounds.** A round gives each contestant a few operations, about a millisecond's worth, in an order that is
shuffled anew each time, on the same ids. So whatever else the machine does meets all of them alike. The first operation
of each turn does not count, for it finds the processor's caches full of another contestant's work; nor do the first
rounds. A ratio is taken within each round; what is shown is the median of these ratios, with the quartiles. Garbage is
collected between the timed parts, never within.

**Floors.** A hit is compared with one round trip of a raw socket that asks for the same value (``get key``, blocking,
no timeout, nothing parsed), many hits with one ``get k1 ... k100``; reads from the database with the driver and an
open cursor, and with ``Session.get`` in a new session; writes with the same statements on an engine that nothing
covers. Beside the floor stands a raw socket that sends what *we* send: what lies between the two is the protocol's,
the rest is Python's.

**Peers as their documentation shows them:** pymemcache's ``Client`` with its defaults (bytes, no timeout, no promise),
a dogpile region over pymemcache with ``get_or_create``, advanced-alchemy's repository with its cache manager. Each
answer is checked once before the clock runs.

**Servers.** A MariaDB and four memcached processes of the run's own on loopback, memcached with one worker thread. One
client thread, where a benchmark does not say otherwise. MariaDB writes its log to the disk at each commit, as it does
by default; ``commit-unflushed`` is the harsher comparison without.

``herd`` is no race: it shows readers over some seconds, one way to read after the other.

**Two versions.** ``--against REF`` compares this checkout with another commit; ``benchmarks.against`` says how.

``python -m benchmarks --help`` lists the rest: choosing benchmarks, a quick run, JSON, plots, and where the time goes
(``--profile hit``).
"""
