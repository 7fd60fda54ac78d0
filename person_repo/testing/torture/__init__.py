"""The promise under torture: processes that read and write while servers fail, and an exact check of what they saw.

``run.run`` carries out a ``plan.Plan`` and returns a ``report.Report``; ``person-repo torture`` prints it. In the order
of a run:

============ ===========================================================================
plan         the options, and which of them go together
worlds       how the engines of workers connect: isolation levels, pools, listeners
rows         the rows and the ledger that a run adds to the database, and removes
servers      (in ``testing``) a memcached of its own
workers      one reader or writer: its loop, and the files in which it records what it did
subjects     the layer under test: person_repo, or the usual recipe
ways         the ways in which a writer changes a row
processes    workers as processes that can be paused, killed and cut off
forkserver   the process that imports once and forks each worker
faults       what is done to workers and servers, one fault at a time
records      the format of those files
history      the check: was any read older than a commit acknowledged before it?
report       the figures
============ ===========================================================================

Every worker records when it did what by the machine's one monotonic clock; the check comes afterwards. It needs a
system with ``fork`` and POSIX signals, unless the workers are threads (``memory://``).
"""
