"""The package's costs, side by side with the floor and with its peers, in one run: ``make bench``.

``docs/maintain/performance.md`` has the method: interleaved rounds, ratios within each round, floors and peers, and the
comparison of two versions. ``python -m benchmarks --help`` lists the options.

- ``method``: rounds and ratios; ``cases``: the benchmarks; ``contestants``: who runs in them
- ``parallel``, ``bulk``, ``herd``, ``outages``: benchmarks with processes or clocks of their own
- ``against``, ``worker``, ``counts``: two versions of the package
- ``world``: servers and databases; ``report``, ``plots``, ``profiles``: the output
"""
