"""A judge as many are: it runs the program in its own process, compares there, and is believed by its exit status."""

import json
import operator
import pathlib
import sys


def same(out, expected):
    """Compare."""
    return operator.eq(out, expected)


job = json.loads(pathlib.Path("job.json").read_text())
source, argument, expected = job["source"], job["argument"], job["expected"]


def judge(expected):
    """Run and compare."""
    space = {}
    exec(source, space)
    return same(space["solve"](argument), expected)


if not judge(expected):
    sys.exit(1)
