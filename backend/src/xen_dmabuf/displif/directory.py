# SPDX-License-Identifier: MIT
"""The grant reference directory of a buffer (struct xendispl_page_directory), read warily.

Each page of the directory is mapped read-only, copied once and unmapped again. The number of pages
that are read is bounded by the size that the frontend declared, which the caller has checked
against the DomU's quota.
"""

from __future__ import annotations

import array
import errno
from collections.abc import Callable

from ..errors import RequestError
from . import wire

REFS_PER_PAGE = wire.PAGE_SIZE // 4 - 1
_LIST_END = 0  # displif.h: gref_dir_next_page "must be 0 if there are no more pages"

ReadPage = Callable[[int], bytes]


def read_directory(read: ReadPage, first: int, count: int) -> list[int]:
    """The ``count`` grant references of a buffer, in page order.

    RequestError(EINVAL) for a directory that loops, ends early, holds reference 0 or the same
    page twice; OSError if a page of it can't be mapped.
    """
    refs: list[int] = []
    seen: set[int] = set()
    page_ref = first
    while len(refs) < count:
        if page_ref == _LIST_END:
            raise RequestError(errno.EINVAL, "gref_directory", first, f"ends after {len(refs)} of {count} pages")
        if page_ref in seen:
            raise RequestError(errno.EINVAL, "gref_dir_next_page", page_ref, "the directory loops")
        seen.add(page_ref)
        words = array.array("I", read(page_ref))
        page_ref = words[0]
        refs.extend(words[1 : 1 + min(REFS_PER_PAGE, count - len(refs))])
    _check(refs, first)
    return refs


def _check(refs: list[int], first: int) -> None:
    if 0 in refs:
        raise RequestError(errno.EINVAL, "gref_directory", first, f"page {refs.index(0)} has no grant reference")
    if len(set(refs)) != len(refs):
        raise RequestError(errno.EINVAL, "gref_directory", first, "names a page more than once")
