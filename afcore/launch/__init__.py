"""Run a function on N workers, each a process of its own, and come back when all have ended.

Nothing is returned: results are in the store. See ``docs/workers.md``.
"""
