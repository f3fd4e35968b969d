"""The contestants of ``overhead.py``, one module each, and the jobs they are given.

Each module has a function ``prepare(job)`` that builds everything and returns a function without arguments
which trains ``job.model``. Only that function is timed. Where ``job.folder`` is None the contestant runs
bare: everything optional is off. Else it runs as its quickstart shows it and writes into that folder. The
modules import their library at the top, so that a missing one shows as an ``ImportError``.
"""
