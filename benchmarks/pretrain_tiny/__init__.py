"""Pre-training of the embedded policies: a novice's posterior under every kind of information (ARCHITECTURE §6)."""
