"""One file per grader: text in, Verdict out; no torch, no environment."""

if __name__ != "sdgym.verifiers":
    raise ImportError(
        "this folder is the package sdgym.verifiers: write `import sdgym.verifiers` (a bare `import verifiers` would load it twice)"
    )
