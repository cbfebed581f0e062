"""How public tests are shown in a prompt."""

from __future__ import annotations

from sdgym.verifiers.code_feedback import shown
from sdgym.verifiers.code_suite import CallTest, StdioTest, Suite


def examples(suite: Suite) -> str:
    """Return the public tests in words."""
    lines = []
    for test in suite.public:
        if isinstance(test, CallTest):
            lines.append(f"{test.entry.rpartition('.')[2]}({', '.join(map(shown, test.args))}) is {shown(test.expected)}")
        elif isinstance(test, StdioTest):
            lines.append(f"Input:\n{test.stdin.rstrip()}\nOutput:\n{test.expected.rstrip()}")
        else:
            lines.append(test.code.strip())
    return "Examples:\n" + "\n".join(lines)
