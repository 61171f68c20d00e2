# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""How often a property is tried, and what one example of it may cost."""

from __future__ import annotations

import contextlib
import functools
import signal
import tracemalloc
from collections import Counter
from typing import Any, Callable, Iterator

from hypothesis import given, settings
from hypothesis.strategies import SearchStrategy

passed: Counter[str] = Counter()


def tried(
    *, share: float = 1, seconds: float = 5, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Any]:
    """Try a property with made-up arguments, and count the examples for which it held.

    Args:
        share: of the profile's number of examples, for what is slow.
        seconds: of the processor, that one example may take.
        strategies: how each argument is made up.
    """

    def decorate(prop: Callable[..., None]) -> Any:
        @functools.wraps(prop)
        def once(*args: Any, **kwargs: Any) -> None:
            signal.signal(signal.SIGPROF, _too_long)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                prop(*args, **kwargs)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            passed[f"{prop.__module__}.{prop.__name__}"] += 1

        number = max(int(settings.default.max_examples * share), 5)
        return given(**strategies)(settings(max_examples=number)(once))

    return decorate


def _too_long(*_: object) -> None:
    raise AssertionError("it takes too long")


@contextlib.contextmanager
def memory_below(mebibytes: float) -> Iterator[None]:
    """Hold what is done within to a peak of memory."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1024 / 1024
        assert peak <= mebibytes, f"held {peak:.0f} MiB"
    finally:
        tracemalloc.stop()
