"""Everything that knows torch, and nothing that knows Faust: usable from a notebook."""

import os

# torch's threads wait for one another by spinning. Where other processes want the same cores, as
# Kafka does, they spin while the one waited for cannot run: a forward pass then takes a hundred
# times as long. OpenMP reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A CPU kernel is made for every shape of batch and kept, 1,024 of them, with its buffers. Shapes
# hardly ever come twice here: memory grew by hundreds of megabytes, and nothing became faster
# (documents a CPU second, two runs each: 153 and 151 with 8 kept, 152 and 145 with 1,024).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
os.environ.setdefault("LRU_CACHE_CAPACITY", "8")
