"""Serving: checkpoints become engines, documents become predictions."""
