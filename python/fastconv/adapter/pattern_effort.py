"""How long a regular expression from a file may keep a matcher busy that tries all ways: patterns are input too."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    from re import _constants as _codes  # type: ignore[attr-defined]
    from re import _parser  # type: ignore[attr-defined]
else:
    import sre_constants as _codes
    import sre_parse as _parser

MAX_NAME = 128  # characters of a module's name; longer ones are matched by no pattern
MAX_EFFORT = 10**7
_MAX_PATTERN = 1000


def matching_effort(pattern: str) -> int:
    """An upper bound of the ways in which a pattern can be tried on a name from one place, or MAX_EFFORT + 1.

    Raises re.error and RecursionError where it is no regular expression.
    """
    if len(pattern) > _MAX_PATTERN:
        return MAX_EFFORT + 1
    return min(_ways(_parser.parse(pattern)), MAX_EFFORT + 1)


def _ways(parsed: Any) -> int:
    ways = 1
    for code, argument in parsed:
        if code in (_codes.MAX_REPEAT, _codes.MIN_REPEAT) or str(code) == "POSSESSIVE_REPEAT":
            low, high, inner = argument
            tries = min(int(high), MAX_NAME) - min(int(low), MAX_NAME) + 1
            each = _ways(inner)
            ways *= tries * each ** min(int(high), MAX_NAME) if each > 1 else tries
        elif code is _codes.BRANCH:
            ways *= sum(_ways(branch) for branch in argument[1])
        elif code is _codes.SUBPATTERN:
            ways *= _ways(argument[3])
        elif code in (_codes.ASSERT, _codes.ASSERT_NOT):
            ways *= _ways(argument[1])
        elif code is _codes.GROUPREF_EXISTS:
            ways *= sum(_ways(branch) for branch in argument[1:] if branch is not None)
        elif str(code) == "ATOMIC_GROUP":
            ways *= _ways(argument)
        if ways > MAX_EFFORT:
            return MAX_EFFORT + 1
    return ways
