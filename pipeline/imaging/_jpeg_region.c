/* A rectangle of a JPEG -> RGB pixels, by libjpeg-turbo, with the GIL released.

   Left of the rectangle, right of it and above it nothing is transformed; below it nothing is read. Whatever is not an
   ordinary JPEG, or draws as much as a warning, is left to the caller: the answer is then None, and the bytes of
   `memory` that were written mean nothing. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <setjmp.h>
#include <stdio.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: older ones skip rows wrongly, other libraries cannot"
#endif

#define TEXT_OF(number) #number
#define TEXT(macro) TEXT_OF(macro)

#define CHANNELS 3
#define ROWS_AT_ONCE 16

/* Upsampling colour looks one sample of colour to each side, which is two pixels. */
#define MARGIN_PX 2

typedef struct {
    int height, width; /* of the whole image, as its header was understood to say */
    int shrink;        /* 1, 2, 4, 8: what follows is in pixels of the image at 1/shrink of its size */
    int top, left, rows, columns;
} Rectangle;

typedef struct {
    size_t offset, pitch; /* of the first pixel and from row to row, in bytes */
} Placement;

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

/* True when `memory` holds the rectangle, at `placed`. */
static int decode(const Py_buffer *data, const Rectangle *wanted, const Py_buffer *memory, Placement *placed)
{
    struct jpeg_decompress_struct info;
    Errors errors;
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
    jpeg_mem_src(&info, data->buf, (unsigned long)data->len);
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
    placed->pitch = (size_t)width * CHANNELS;
    placed->offset = ((size_t)wanted->left - left) * CHANNELS;
    if (placed->pitch * (size_t)wanted->rows > (size_t)memory->len) {
        give_up((j_common_ptr)&info);
    }
    if (wanted->top > 0) {
        jpeg_skip_scanlines(&info, (JDIMENSION)wanted->top);
    }
    read_rows(&info, wanted->rows, memory->buf, placed->pitch);
    jpeg_destroy_decompress(&info);
    return 1;
}

PyDoc_STRVAR(
    decode_region_doc,
    "decode_region(data, height, width, shrink, top, left, rows, columns, memory)\n\n"
    "(offset, pitch) in bytes of the rectangle's pixels in `memory`; None where this is no work for this module.");

static PyObject *decode_region(PyObject *module, PyObject *arguments)
{
    (void)module;
    Py_buffer data, memory;
    Rectangle wanted;
    if (!PyArg_ParseTuple(
            arguments, "y*iiiiiiiw*:decode_region", &data, &wanted.height, &wanted.width, &wanted.shrink, &wanted.top,
            &wanted.left, &wanted.rows, &wanted.columns, &memory)) {
        return NULL;
    }
    Placement placed;
    int is_done = 0;
    if (wanted.shrink == 1 || wanted.shrink == 2 || wanted.shrink == 4 || wanted.shrink == 8) {
        Py_BEGIN_ALLOW_THREADS
        is_done = decode(&data, &wanted, &memory, &placed);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&memory);
    if (!is_done) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("nn", (Py_ssize_t)placed.offset, (Py_ssize_t)placed.pitch);
}

static PyMethodDef methods[] = {
    {"decode_region", decode_region, METH_VARARGS, decode_region_doc},
    {NULL, NULL, 0, NULL},
};

static int add_version(PyObject *module)
{
    return PyModule_AddStringConstant(module, "LIBRARY", "libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION));
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_version},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_jpeg_region", "Rectangles of JPEGs.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__jpeg_region(void)
{
    return PyModuleDef_Init(&definition);
}
