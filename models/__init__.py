"""Everything that knows torch, and nothing that knows Faust: usable from a notebook."""
