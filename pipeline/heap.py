"""Memory that is freed stays with the process: for who asks again and again for as much.

glibc gives large pieces back as soon as they are freed, and the next one is fetched, and zeroed, page by page.
Source: mallopt(3), malloc.h; other C libraries have no such function, and do as they like.
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
