"""A shard's index for DALI's webdataset reader: where the members of each sample lie in the tar."""

import numpy as np

from pipeline.sample_table import is_multi_label
from pipeline.sharding.plan import KEY_DIGITS
from pipeline.sharding.tar import BLOCK_BYTES, member_end

VERSION = "v1.2"


def dali_index(table: np.ndarray, image_extension: str) -> str:
    """The samples of `table`, which may be fewer than the tar holds: DALI reads no others."""
    lines = [f"{VERSION} {len(table)}"]
    has_labels = is_multi_label(table)
    for row in table.tolist():
        key, image_offset, image_bytes, json_offset, json_bytes, label = row
        stem, cls_offset = f"{key:0{KEY_DIGITS}d}", member_end(image_offset, image_bytes) + BLOCK_BYTES
        members = [(image_extension, image_offset, image_bytes), ("json", json_offset, json_bytes)]
        if not has_labels:
            members.insert(1, ("cls", cls_offset, len(str(label))))
        lines.append(" ".join(f"{ext} {offset} {size} {stem}.{ext}" for ext, offset, size in members))
    return "\n".join(lines) + "\n"
