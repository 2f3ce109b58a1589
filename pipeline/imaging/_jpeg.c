/* A rectangle of a JPEG -> RGB pixels, by libjpeg-turbo.

   Left of the rectangle, right of it and above it nothing is transformed; below it nothing is read. Whatever is not an
   ordinary JPEG, or draws as much as a warning, is left to the caller: the answer is then no, and the bytes of `memory`
   that were written mean nothing. */

#include "_crops.h"

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: older ones skip rows wrongly, other libraries cannot"
#endif

#define ROWS_AT_ONCE 16

/* Upsampling colour looks one sample of colour to each side, which is two pixels. */
#define MARGIN_PX 2

/* Source: ITU T.81, table B.1. */
enum { PREFIX = 0xff, START_OF_IMAGE = 0xd8, START_OF_SCAN = 0xda, EXIF_OR_XMP = 0xe1 };

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf escape;
} Errors;

static void give_up(j_common_ptr info)
{
    longjmp(((Errors *)info->err)->escape, 1);
}

/* A negative level is a warning: pixels were made up. */
static void take_no_warning(j_common_ptr info, int level)
{
    if (level < 0) {
        give_up(info);
    }
}

static void say_nothing(j_common_ptr info)
{
    (void)info;
}

/* Whether two copies of libjpeg-turbo are known to agree on it. */
static int is_ordinary(const struct jpeg_decompress_struct *info)
{
    if (info->data_precision != 8 || info->arith_code) {
        return 0;
    }
    if (info->jpeg_color_space == JCS_GRAYSCALE) {
        return info->num_components == 1;
    }
    const jpeg_component_info *part = info->comp_info;
    return info->jpeg_color_space == JCS_YCbCr && info->num_components == 3
        && part[1].h_samp_factor == 1 && part[1].v_samp_factor == 1
        && part[2].h_samp_factor == 1 && part[2].v_samp_factor == 1
        && (part[0].h_samp_factor == 1 || part[0].h_samp_factor == 2 || part[0].h_samp_factor == 4)
        && (part[0].v_samp_factor == 1 || part[0].v_samp_factor == 2);
}

static int is_scale(int shrink)
{
    return shrink == 1 || shrink == 2 || shrink == 4 || shrink == 8;
}

static int lies_inside(const Rectangle *wanted, int height, int width)
{
    return wanted->top >= 0 && wanted->left >= 0 && wanted->rows >= 1 && wanted->columns >= 1
        && wanted->rows <= height - wanted->top && wanted->columns <= width - wanted->left;
}

static void read_rows(struct jpeg_decompress_struct *info, int num_rows, unsigned char *memory, size_t pitch)
{
    int done = 0;
    while (done < num_rows) {
        JSAMPROW rows[ROWS_AT_ONCE];
        int ahead = num_rows - done < ROWS_AT_ONCE ? num_rows - done : ROWS_AT_ONCE;
        for (int each = 0; each < ahead; each++) {
            rows[each] = memory + (size_t)(done + each) * pitch;
        }
        JDIMENSION num_read = jpeg_read_scanlines(info, rows, (JDIMENSION)ahead);
        if (num_read == 0) {
            give_up((j_common_ptr)info);
        }
        done += (int)num_read;
    }
}

int decode_rectangle(
    const unsigned char *data, size_t num_bytes, const Rectangle *wanted, unsigned char *memory, size_t room,
    Pixels *placed)
{
    struct jpeg_decompress_struct info;
    Errors errors;
    if (!is_scale(wanted->shrink)) {
        return 0;
    }
    info.err = jpeg_std_error(&errors.manager);
    errors.manager.error_exit = give_up;
    errors.manager.emit_message = take_no_warning;
    errors.manager.output_message = say_nothing;
    info.mem = NULL; /* what is not there yet is not freed */
    if (setjmp(errors.escape)) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    /* Made anew for each image: tables of the last one would stand in for those that this one lacks. */
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, data, (unsigned long)num_bytes);
    jpeg_read_header(&info, TRUE);
    if ((int)info.image_height != wanted->height || (int)info.image_width != wanted->width || !is_ordinary(&info)) {
        give_up((j_common_ptr)&info);
    }
    info.out_color_space = JCS_RGB;
    info.scale_num = 1;
    info.scale_denom = (unsigned int)wanted->shrink;
    jpeg_start_decompress(&info);
    if (!lies_inside(wanted, (int)info.output_height, (int)info.output_width)) {
        give_up((j_common_ptr)&info);
    }
    JDIMENSION left = (JDIMENSION)(wanted->left > MARGIN_PX ? wanted->left - MARGIN_PX : 0);
    JDIMENSION right = (JDIMENSION)wanted->left + (JDIMENSION)wanted->columns + MARGIN_PX;
    JDIMENSION width = (right < info.output_width ? right : info.output_width) - left;
    jpeg_crop_scanline(&info, &left, &width); /* moves `left` to the edge of a block and widens `width` by as much */
    size_t pitch = (size_t)width * CHANNELS;
    if (pitch * (size_t)wanted->rows > room) {
        give_up((j_common_ptr)&info);
    }
    if (wanted->top > 0) {
        jpeg_skip_scanlines(&info, (JDIMENSION)wanted->top);
    }
    read_rows(&info, wanted->rows, memory, pitch);
    const unsigned char *first = memory + ((size_t)wanted->left - left) * CHANNELS;
    *placed = (Pixels){first, pitch, memory + room, wanted->rows, wanted->columns};
    jpeg_destroy_decompress(&info);
    return 1;
}

static int is_start_of_frame(unsigned char marker)
{
    return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

int read_jpeg_size(const unsigned char *data, size_t num_bytes, int32_t *height, int32_t *width)
{
    int is_known = 0;
    if (num_bytes < 4 || data[0] != PREFIX || data[1] != START_OF_IMAGE) {
        return 0;
    }
    for (size_t at = 2; at + 9 < num_bytes && data[at] == PREFIX;) {
        unsigned char marker = data[at + 1];
        if (marker == PREFIX) {
            at += 1;
            continue;
        }
        if (marker == START_OF_SCAN) {
            return is_known;
        }
        if (marker == EXIF_OR_XMP || (is_known && is_start_of_frame(marker))) {
            return 0;
        }
        if (is_start_of_frame(marker)) {
            *height = data[at + 5] << 8 | data[at + 6];
            *width = data[at + 7] << 8 | data[at + 8];
            is_known = *height > 0 && *width > 0;
        }
        at += 2 + (size_t)(data[at + 2] << 8 | data[at + 3]);
    }
    return 0;
}
