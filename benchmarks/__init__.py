"""What bertstream is measured with, from a checkout: `make faults`, `make soak`."""
