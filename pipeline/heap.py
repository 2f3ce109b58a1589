"""Memory that is freed: kept for who asks again and again for as much, given back by who asks for little from now on.

glibc gives large pieces back as soon as they are freed, and the next one is fetched, and zeroed, page by page; of
smaller ones it keeps what lies between others. Source: mallopt(3), malloc_trim(3), malloc.h; other C libraries have no
such functions, and do as they like.
"""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 32 * 2**20
"""The largest piece for which mallopt(3) has a threshold on 64 bits: the pixels of a photograph of ten megapixels."""
UNLIMITED = 2**31 - 1


def keep_freed(at_most_bytes: int = KEPT_BYTES) -> None:
    """From here on, and for the whole process: pieces no larger than KEPT_BYTES are used again, and so much of them is
    kept while nobody asks."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, at_most_bytes)


def give_back_freed() -> None:
    """Once, now: all pages that hold nothing any more."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
