"""Networks that bertstream builds itself."""
