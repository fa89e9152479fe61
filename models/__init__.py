"""Everything that knows torch, and nothing that knows Faust: usable from a notebook."""

import os

# torch's threads wait for one another by spinning. Where other processes want the same cores, as
# Kafka does, they spin while the one waited for cannot run: a forward pass then takes a hundred
# times as long. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
