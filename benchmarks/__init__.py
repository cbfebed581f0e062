"""Comparisons, speed measurements, pre-training of the embedded policies, recorded results."""

if __name__ != "sdgym.benchmarks":
    raise ImportError(
        "this folder is the package sdgym.benchmarks: write `import sdgym.benchmarks` (a bare `import benchmarks` would load it twice)"
    )
