"""Models in files for other runtimes."""
