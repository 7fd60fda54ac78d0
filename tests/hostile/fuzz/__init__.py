"""Coverage-guided fuzzing of the code that reads bytes from outside: one target in each ``fuzz_*.py``.

A target is a module with ``seeds()``, the inputs to begin with, and ``one_input(data)``, which raises if the code under
it does anything that it must not. It needs no fuzzer: ``tests/hostile/test_fuzz.py`` runs it on its seeds.
``make fuzz`` runs it under atheris (libFuzzer for Python), which is in the dependency group ``fuzz``.
"""
