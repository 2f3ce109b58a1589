/* The native code as Python sees it: many images a call, the GIL released once.

   What is asked for is checked against the memory it speaks of. What this code is not for, it leaves undone and says
   so; the caller has another way, and tells what is wrong with an image. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include "_crops.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <jpeglib.h>

#define TEXT_OF(number) #number
#define TEXT(macro) TEXT_OF(macro)

/* One image, and what becomes of it. `imaging.crops.CROP` is the same in numpy's words. */
typedef struct {
    int64_t file_offset, num_bytes; /* of the encoded image */
    int64_t offset;                 /* of it, or of the pixels, in memory */
    int64_t place;                  /* in the batch */
    int32_t descriptor;             /* of the file */
    Rectangle wanted;
    Motion motion;
    int32_t is_done;
    int32_t can_shrink; /* told to who plans the crops; not looked at here */
} Crop;

typedef struct {
    unsigned char *images;
    int64_t num_images;
    int side_px;
} Batch;

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int lies_within(int64_t first, int64_t length, int64_t size)
{
    return first >= 0 && length >= 0 && first <= size && length <= size - first;
}

/* Fills the size in; it stays as it is where the file ends too soon, and is 0 for what is no ordinary JPEG. */
static void read_image(Crop *crop, const Py_buffer *memory)
{
    if (!lies_within(crop->offset, crop->num_bytes, memory->len)) {
        return;
    }
    unsigned char *data = (unsigned char *)memory->buf + crop->offset;
    for (int64_t done = 0; done < crop->num_bytes;) {
        ssize_t now = pread(
            crop->descriptor, data + done, (size_t)(crop->num_bytes - done), (off_t)(crop->file_offset + done));
        if (now <= 0) {
            return;
        }
        done += now;
    }
    if (!read_jpeg_size(data, (size_t)crop->num_bytes, &crop->wanted.height, &crop->wanted.width)) {
        crop->wanted.height = crop->wanted.width = 0;
    }
}

/* Whether `imaging.resizing` interpolates here: where a side grows, or both shrink to more than a half. */
static int is_interpolated(const Rectangle *wanted, int side_px)
{
    return wanted->rows >= 1 && wanted->columns >= 1
        && (wanted->rows < side_px || wanted->columns < side_px
            || (wanted->rows < 2 * side_px && wanted->columns < 2 * side_px));
}

static void finish(Crop *crop, const Pixels *pixels, const Batch *batch)
{
    size_t image_bytes = (size_t)batch->side_px * batch->side_px * CHANNELS;
    if (lies_within(crop->place, 1, batch->num_images)) {
        crop->is_done = stretch(
            pixels, batch->side_px, &crop->motion, batch->images + (size_t)crop->place * image_bytes);
    }
}

/* Seconds that decoding took. */
static double cut_jpeg(Crop *crop, const Py_buffer *data, const Py_buffer *scratch, const Batch *batch)
{
    crop->is_done = 0;
    if (!is_interpolated(&crop->wanted, batch->side_px) || !lies_within(crop->offset, crop->num_bytes, data->len)) {
        return 0.0;
    }
    Pixels pixels;
    double started = seconds_now();
    int is_decoded = decode_rectangle(
        (const unsigned char *)data->buf + crop->offset, (size_t)crop->num_bytes, &crop->wanted, scratch->buf,
        (size_t)scratch->len, &pixels);
    double ended = seconds_now();
    if (is_decoded) {
        finish(crop, &pixels, batch);
    }
    return ended - started;
}

static void cut_kept(Crop *crop, const Py_buffer *memory, const Batch *batch)
{
    const Rectangle *wanted = &crop->wanted;
    int64_t shrink = wanted->shrink >= 1 ? wanted->shrink : 1;
    int64_t height = (wanted->height + shrink - 1) / shrink, width = (wanted->width + shrink - 1) / shrink;
    crop->is_done = 0;
    if (!is_interpolated(wanted, batch->side_px) || !lies_within(wanted->top, wanted->rows, height)
        || !lies_within(wanted->left, wanted->columns, width)
        || !lies_within(crop->offset, height * width * CHANNELS, memory->len)) {
        return;
    }
    const unsigned char *all = memory->buf, *first = all + crop->offset;
    size_t pitch = (size_t)width * CHANNELS;
    Pixels pixels = {
        first + (size_t)wanted->top * pitch + (size_t)wanted->left * CHANNELS, pitch, all + memory->len, wanted->rows,
        wanted->columns};
    finish(crop, &pixels, batch);
}

/* False, with an exception, where arrays are not what they must be: a mistake of the caller. */
static int are_whole(const Py_buffer *crops, const Py_buffer *out, int side_px, Batch *batch)
{
    if (crops->len % (Py_ssize_t)sizeof(Crop) != 0 || side_px < 1 || side_px > MAX_SIDE_PX) {
        PyErr_SetString(PyExc_ValueError, "crops are no whole rows, or side_px is out of range");
        return 0;
    }
    *batch = (Batch){out->buf, out->len / ((int64_t)side_px * side_px * CHANNELS), side_px};
    return 1;
}

PyDoc_STRVAR(
    read_images_doc,
    "read_images(crops, memory)\n\n"
    "Reads each image from its file to its offset in `memory`, and its height and width from its header.");

static PyObject *read_images(PyObject *module, PyObject *arguments)
{
    (void)module;
    Py_buffer crops, memory;
    if (!PyArg_ParseTuple(arguments, "w*w*:read_images", &crops, &memory)) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    for (size_t each = 0; each < (size_t)crops.len / sizeof(Crop); each++) {
        read_image((Crop *)crops.buf + each, &memory);
    }
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&crops);
    PyBuffer_Release(&memory);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(
    cut_jpegs_doc,
    "cut_jpegs(crops, data, scratch, out, side_px)\n\n"
    "Writes the crops of the JPEGs that lie in `data` to their places of `out`; the seconds that decoding took.");

static PyObject *cut_jpegs(PyObject *module, PyObject *arguments)
{
    (void)module;
    Py_buffer crops, data, scratch, out;
    int side_px;
    Batch batch;
    double seconds = 0.0;
    if (!PyArg_ParseTuple(arguments, "w*y*w*w*i:cut_jpegs", &crops, &data, &scratch, &out, &side_px)) {
        return NULL;
    }
    int is_sound = are_whole(&crops, &out, side_px, &batch);
    if (is_sound) {
        Py_BEGIN_ALLOW_THREADS
        for (size_t each = 0; each < (size_t)crops.len / sizeof(Crop); each++) {
            seconds += cut_jpeg((Crop *)crops.buf + each, &data, &scratch, &batch);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&crops);
    PyBuffer_Release(&data);
    PyBuffer_Release(&scratch);
    PyBuffer_Release(&out);
    return is_sound ? PyFloat_FromDouble(seconds) : NULL;
}

PyDoc_STRVAR(
    cut_pixels_doc,
    "cut_pixels(crops, pixels, out, side_px)\n\n"
    "Writes the crops of the decoded images that lie in `pixels`, at their shrunk sizes, to their places of `out`.");

static PyObject *cut_pixels(PyObject *module, PyObject *arguments)
{
    (void)module;
    Py_buffer crops, pixels, out;
    int side_px;
    Batch batch;
    if (!PyArg_ParseTuple(arguments, "w*y*w*i:cut_pixels", &crops, &pixels, &out, &side_px)) {
        return NULL;
    }
    int is_sound = are_whole(&crops, &out, side_px, &batch);
    if (is_sound) {
        Py_BEGIN_ALLOW_THREADS
        for (size_t each = 0; each < (size_t)crops.len / sizeof(Crop); each++) {
            cut_kept((Crop *)crops.buf + each, &pixels, &batch);
        }
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&crops);
    PyBuffer_Release(&pixels);
    PyBuffer_Release(&out);
    if (!is_sound) {
        return NULL;
    }
    Py_RETURN_NONE;
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
    Pixels placed = {0};
    int is_done;
    Py_BEGIN_ALLOW_THREADS
    is_done = decode_rectangle(data.buf, (size_t)data.len, &wanted, memory.buf, (size_t)memory.len, &placed);
    Py_END_ALLOW_THREADS
    Py_ssize_t offset = placed.first - (unsigned char *)memory.buf;
    PyBuffer_Release(&data);
    PyBuffer_Release(&memory);
    if (!is_done) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("nn", offset, (Py_ssize_t)placed.pitch);
}

static PyMethodDef methods[] = {
    {"read_images", read_images, METH_VARARGS, read_images_doc},
    {"cut_jpegs", cut_jpegs, METH_VARARGS, cut_jpegs_doc},
    {"cut_pixels", cut_pixels, METH_VARARGS, cut_pixels_doc},
    {"decode_region", decode_region, METH_VARARGS, decode_region_doc},
    {NULL, NULL, 0, NULL},
};

static int add_constants(PyObject *module)
{
    return PyModule_AddStringConstant(module, "LIBRARY", "libjpeg-turbo " TEXT(LIBJPEG_TURBO_VERSION)) != 0
            || PyModule_AddIntConstant(module, "CAN_STRETCH", can_stretch()) != 0
            || PyModule_AddIntConstant(module, "CROP_BYTES", (long)sizeof(Crop)) != 0
        ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, add_constants},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_crops", "Crops of images, and rectangles of JPEGs.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__crops(void)
{
    return PyModuleDef_Init(&definition);
}
