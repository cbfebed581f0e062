"""Speed measurements: pinned workloads, each a ratio in one run against a baseline at its best settings."""
