# Copyright 2026 the nova-compute-nvidia-vgpu authors
# SPDX-License-Identifier: Apache-2.0
"""The number of examples for each property, and the time and memory limits of an example."""

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


def fuzzed(
    *, share: float = 1, seconds: float = 5, **strategies: SearchStrategy[Any]
) -> Callable[[Callable[..., None]], Any]:
    """Test a property with generated arguments, and count the examples that passed.

    Args:
        share: the share of the profile's number of examples, to reduce slow properties.
        seconds: the limit on the processor time of one example.
        strategies: the strategy that generates each argument.
    """

    def decorate(prop: Callable[..., None]) -> Any:
        @functools.wraps(prop)
        def run_example(*args: Any, **kwargs: Any) -> None:
            signal.signal(signal.SIGPROF, _too_long)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            try:
                prop(*args, **kwargs)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            passed[f"{prop.__module__}.{prop.__name__}"] += 1

        number = max(int(settings.default.max_examples * share), 5)
        return given(**strategies)(settings(max_examples=number)(run_example))

    return decorate


def _too_long(*_: object) -> None:
    raise AssertionError("it takes too long")


@contextlib.contextmanager
def memory_below(mebibytes: float) -> Iterator[None]:
    """Limit the peak memory of the code within this context."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / 1024 / 1024
        assert peak <= mebibytes, f"used {peak:.0f} MiB"
    finally:
        tracemalloc.stop()
