"""Programming: write a function or a script; tests run in a sandbox and say what failed."""
