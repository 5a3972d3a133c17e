"""Retraining: what changed in the data, what drifted, and whether the new model is the better one.

:mod:`pipelines.retrain` goes through it; MLflow is asked by
:mod:`afcore.tracking.registry`.
"""
