"""Faust agents, thin: they read as the flow of records."""
