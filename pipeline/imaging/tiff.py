"""What a TIFF's first directory says of its channels, before Pillow drops those that it has no mode for."""

import io

from PIL import TiffImagePlugin

from pipeline.errors import ImageError

MAGICS = (b"II*\0", b"MM\0*")
SAMPLES_PER_PIXEL, PHOTOMETRIC, EXTRA_SAMPLES = 277, 262, 338
CMYK = 5
ALPHA = (1, 2)  # associated and unassociated; 0 may be anything, an infrared band most often
NUM_COLORS_OF_CMYK = 4


def check_channels(data: bytes) -> None:
    """Passes grey, RGB, CMYK and palettes, with or without transparency, and what is no readable TIFF.

    Raises ImageError with the reason unsupported_channels. Source: TIFF 6.0, sections 8 and 18.
    """
    if not data.startswith(MAGICS):
        return
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        num_channels = int(directory.get(SAMPLES_PER_PIXEL, 1))
        extra = directory.get(EXTRA_SAMPLES, ())
        is_cmyk = directory.get(PHOTOMETRIC) == CMYK
    except Exception:  # damaged in a way that the decoder has a better message for
        return
    num_colors = num_channels - sum(kind in ALPHA for kind in extra)
    if num_colors not in (1, 3) and not (is_cmyk and num_colors == NUM_COLORS_OF_CMYK):
        raise ImageError(
            "unsupported_channels",
            f"The TIFF has {num_colors} channels; images have 1 or 3: choose the bands and write them as RGB or grey.",
        )
