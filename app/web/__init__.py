"""The status page: an HTTP server that runs as a service of the worker."""
