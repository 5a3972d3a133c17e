"""Freeze policies, one file each: parameters, memory, decision, and what a plan has to know.

A policy is a pure function of its state and of recorded statistics. Those that a configuration can
name stand in :mod:`.known_policies`; how to add one: CONTRIBUTING.md.
"""
