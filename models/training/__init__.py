"""Fitting classifiers and measuring them."""
