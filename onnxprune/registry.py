"""Named members found by importing every module of a package.

A registry belongs to one package (``onnxprune.criteria``, ``onnxprune.patterns`` ...). Adding a
member means adding one file to that package that calls ``REGISTRY.register``; nothing else has to
know about it: the command line, the docs and the generated tests all read the registry.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from onnxprune.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Members of one kind by name, discovered lazily on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._members: dict[str, T] = {}
        self._discovered = self._discovering = False
        self._lock = threading.RLock()

    def register(self, name: str, member: T) -> T:
        """Add ``member`` under ``name``; two members of one name are a programming error."""
        if name in self._members:
            raise ValueError(f"two {self.kind} members are named {name!r}")
        self._members[name] = member
        return member

    def member(self, name: str) -> Callable[[T], T]:
        """Return a decorator form of :meth:`register`."""
        return lambda item: self.register(name, item)

    def get(self, name: str) -> T:
        """Return the member called ``name``.

        Raises:
            UsageError: no such member; the message names the nearest ones and all choices.
        """
        self._discover()
        if name in self._members:
            return self._members[name]
        near = difflib.get_close_matches(name, self._members, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown {self.kind} {name!r}.{hint} Choices: {', '.join(self.names())}")

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._discover()
        return sorted(self._members)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, member), sorted by name."""
        for name in self.names():
            yield name, self._members[name]

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._members

    def _discover(self) -> None:
        if self._discovered:
            return
        with self._lock:  # another thread waits until all are there
            if self._discovering:
                return
            self._discovering = True
            package = importlib.import_module(self.package)
            for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
                importlib.import_module(f"{self.package}.{info.name}")
            self._discovered = True
