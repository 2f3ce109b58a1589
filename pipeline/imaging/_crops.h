/* What the parts of the native code know of each other. No part but _crops.c knows Python. */

#ifndef CONVOY_CROPS_H
#define CONVOY_CROPS_H

#include <stddef.h>
#include <stdint.h>

#define CHANNELS 3

/* The longest side of what pixels are stretched to, and of a row of what is stretched. */
#define MAX_SIDE_PX 1024
#define MAX_ROW_PX 4096
#define MAX_ROW_BYTES (MAX_ROW_PX * CHANNELS)

/* Rows are read by so many bytes at a time, and so beyond their end. */
#define SLACK_BYTES 16

typedef struct {
    int32_t height, width; /* of the whole image, as its header was understood to say */
    int32_t shrink;        /* 1, 2, 4, 8: what follows is in pixels of the image at 1/shrink of its size */
    int32_t top, left, rows, columns;
} Rectangle;

typedef struct {
    const unsigned char *first; /* the pixel at the top left */
    size_t pitch;               /* from row to row, in bytes */
    const unsigned char *end;   /* of the memory that may be read: not before the last pixel's */
    int rows, columns;
} Pixels;

/* The row itself, or the one at the border that stands for those beyond it. */
static inline int inside_rows(const Pixels *pixels, int row)
{
    return row < 0 ? 0 : row < pixels->rows ? row : pixels->rows - 1;
}

/* True when `memory` holds the rectangle's pixels, and `placed` says where. */
int decode_rectangle(
    const unsigned char *data, size_t num_bytes, const Rectangle *wanted, unsigned char *memory, size_t room,
    Pixels *placed);

/* True when the bytes begin like a JPEG with no EXIF or XMP; then its size as stored. */
int read_jpeg_size(const unsigned char *data, size_t num_bytes, int32_t *height, int32_t *width);

/* Of three neighbours, in 256ths. */
typedef struct {
    int16_t outer, inner;
} Taps;

/* Those that smooth what `length` pixels lose when they become `side_px`. */
Taps taps_for(int length, int side_px);

/* Writes a smoothed row, and up to SLACK_BYTES more. Beyond the border lies the border. */
void smooth_row(const Pixels *pixels, int row, Taps across, Taps down, unsigned char *out);

/* A row that may be read beyond its end: itself, or a copy. */
const unsigned char *with_slack(const Pixels *pixels, int row, unsigned char *copy);

/* How a square is turned over, and then how far it moves; what comes in at a border lies inside it, mirrored there. */
typedef struct {
    int32_t flip_horizontal, flip_vertical;
    int32_t down, right; /* in pixels of the square */
} Motion;

/* Whether this processor can do the work of `stretch`. */
int can_stretch(void);

/* True when `out`, [side_px, side_px, CHANNELS], holds the pixels stretched to that square, and moved. */
int stretch(const Pixels *pixels, int side_px, const Motion *motion, unsigned char *out);

#endif
