/* Pixels stretched to a square by bilinear interpolation in whole numbers: those that OpenCV's INTER_LINEAR gives. Where
   they shrink they are smoothed before.

   Each row is first stretched across, to 15 bits a value, then two neighbouring ones are mixed. Across, four values
   come from one load of 16 bytes, from which a shuffle takes the two neighbours of each. */

#include "_crops.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <string.h>

#define QUAD 4
#define LOAD_BYTES SLACK_BYTES
#define BLOCK 32 /* values that are done at a time */
#define MAX_VALUES (MAX_SIDE_PX * CHANNELS)
#define ONE 2048 /* the sum of the weights of two neighbours */
#define WITH_AVX2 __attribute__((target("avx2")))

typedef struct {
    int at;                /* the nearer to the beginning of two neighbours; -1 and the last have but one */
    int16_t weights[2];
} Pair;

/* How four values of a stretched row are made. Quads are stored in the order 0 2 1 3, as packing wants them. */
typedef struct {
    int num_values; /* a multiple of BLOCK */
    int32_t first_byte[MAX_VALUES / QUAD];
    uint8_t taken[MAX_VALUES / QUAD][LOAD_BYTES] __attribute__((aligned(32)));
    int16_t weights[MAX_VALUES / QUAD][2 * QUAD] __attribute__((aligned(32)));
} Across;

static int16_t rounded(float number)
{
    return (int16_t)_mm_cvtss_si32(_mm_set_ss(number));
}

/* In the types and the order of OpenCV's arithmetic, here and in `pair_of`. */
static double scale_of(int length, int side_px)
{
    return 1.0 / ((double)side_px / (double)length);
}

static Pair pair_of(int place, double scale)
{
    float exact = (float)((place + 0.5) * scale - 0.5);
    int at = (int)exact;
    at -= exact < (float)at; /* rounded down */
    float part = exact - (float)at;
    return (Pair){at, {rounded((1.0f - part) * ONE), rounded(part * ONE)}};
}

static Pair inside(Pair pair, int length)
{
    if (pair.at < 0) {
        return (Pair){0, {ONE, 0}};
    }
    return pair.at < length - 1 ? pair : (Pair){length - 1, {ONE, 0}};
}

/* The place of the stretched square that a place shows which moved from its own. The border itself is not repeated. */
static int shown_at(int place, int moved, int is_flipped, int side_px)
{
    int64_t from = (int64_t)place - moved;
    if (from < 0 || from >= side_px) { /* far out it is mirrored at both borders, again and again */
        int period = side_px > 1 ? 2 * (side_px - 1) : 1;
        from = (from % period + period) % period;
        from = from < side_px ? from : period - from;
    }
    return is_flipped ? side_px - 1 - (int)from : (int)from;
}

static int least_of(const int *bytes)
{
    int least = bytes[0];
    for (int each = 1; each < QUAD; each++) {
        least = bytes[each] < least ? bytes[each] : least;
    }
    return least;
}

/* False when four neighbours lie too far apart for one load. */
static int plan_across(Across *plan, int length, int side_px, const Motion *motion)
{
    static const int stored_at[QUAD] = {0, 2, 1, 3};
    double scale = scale_of(length, side_px);
    Pair pairs[MAX_SIDE_PX];
    for (int place = 0; place < side_px; place++) {
        int shown = shown_at(place, motion->right, motion->flip_horizontal, side_px);
        pairs[place] = inside(pair_of(shown, scale), length);
    }
    int num_values = side_px * CHANNELS;
    plan->num_values = (num_values + BLOCK - 1) / BLOCK * BLOCK;
    for (int quad = 0; quad < plan->num_values / QUAD; quad++) {
        int stored = quad / QUAD * QUAD + stored_at[quad % QUAD], bytes[QUAD];
        const int16_t *weights[QUAD];
        for (int each = 0; each < QUAD; each++) {
            int value = quad * QUAD + each < num_values ? quad * QUAD + each : num_values - 1; /* the rest: as the last */
            bytes[each] = pairs[value / CHANNELS].at * CHANNELS + value % CHANNELS;
            weights[each] = pairs[value / CHANNELS].weights;
        }
        int first = least_of(bytes);
        plan->first_byte[stored] = first;
        memset(plan->taken[stored], 0x80, LOAD_BYTES); /* a shuffle makes zeros of these */
        for (int each = 0; each < QUAD; each++) {
            if (bytes[each] - first + CHANNELS >= LOAD_BYTES) {
                return 0;
            }
            plan->taken[stored][4 * each] = (uint8_t)(bytes[each] - first);
            plan->taken[stored][4 * each + 2] = (uint8_t)(bytes[each] - first + CHANNELS);
            memcpy(plan->weights[stored] + 2 * each, weights[each], 2 * sizeof(int16_t));
        }
    }
    return 1;
}

WITH_AVX2 static inline __m256i two_quads(const Across *plan, int stored, const unsigned char *row)
{
    __m128i low = _mm_loadu_si128((const __m128i *)(row + plan->first_byte[stored]));
    __m128i high = _mm_loadu_si128((const __m128i *)(row + plan->first_byte[stored + 1]));
    __m256i taken = _mm256_load_si256((const __m256i *)plan->taken[stored]);
    __m256i weights = _mm256_load_si256((const __m256i *)plan->weights[stored]);
    __m256i neighbours = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1), taken);
    return _mm256_srli_epi32(_mm256_madd_epi16(neighbours, weights), 4);
}

WITH_AVX2 static void stretch_row(const Across *plan, const unsigned char *row, int16_t *out)
{
    for (int value = 0; value < plan->num_values; value += 4 * QUAD) {
        __m256i even = two_quads(plan, value / QUAD, row), odd = two_quads(plan, value / QUAD + 2, row);
        _mm256_store_si256((__m256i *)(out + value), _mm256_packs_epi32(even, odd));
    }
}

WITH_AVX2 static inline __m256i mix(const int16_t *above, const int16_t *below, __m256i weight, __m256i other)
{
    __m256i one = _mm256_mulhi_epi16(_mm256_load_si256((const __m256i *)above), weight);
    __m256i two = _mm256_mulhi_epi16(_mm256_load_si256((const __m256i *)below), other);
    return _mm256_srai_epi16(_mm256_add_epi16(_mm256_add_epi16(one, two), _mm256_set1_epi16(2)), 2);
}

WITH_AVX2 static void mix_rows(
    const int16_t *above, const int16_t *below, const int16_t *weights, unsigned char *out, int num_values)
{
    __m256i weight = _mm256_set1_epi16(weights[0]), other = _mm256_set1_epi16(weights[1]);
    for (int value = 0; value < num_values; value += BLOCK) {
        __m256i low = mix(above + value, below + value, weight, other);
        __m256i high = mix(above + value + BLOCK / 2, below + value + BLOCK / 2, weight, other);
        __m256i mixed = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8); /* packing works by halves */
        if (num_values - value >= BLOCK) {
            _mm256_storeu_si256((__m256i *)(out + value), mixed);
        } else {
            unsigned char rest[BLOCK];
            _mm256_storeu_si256((__m256i *)rest, mixed);
            memcpy(out + value, rest, (size_t)(num_values - value));
        }
    }
}

/* Whether `imaging.resizing` smooths before it interpolates. */
static int shrinks(const Pixels *pixels, int side_px)
{
    return pixels->rows >= side_px && pixels->columns >= side_px
        && (pixels->rows > side_px || pixels->columns > side_px);
}

int stretch(const Pixels *pixels, int side_px, const Motion *motion, unsigned char *out)
{
    Across plan;
    int16_t memory[2][MAX_VALUES] __attribute__((aligned(32))), *stretched[2] = {memory[0], memory[1]};
    unsigned char made[MAX_ROW_BYTES + 2 * SLACK_BYTES];
    double scale = scale_of(pixels->rows, side_px);
    Taps down = taps_for(pixels->rows, side_px), across = taps_for(pixels->columns, side_px);
    int is_smoothed = shrinks(pixels, side_px);
    int held[2] = {-1, -1}; /* the rows that lie in `stretched` */
    if (pixels->columns > MAX_ROW_PX || !plan_across(&plan, pixels->columns, side_px, motion)) {
        return 0;
    }
    for (int place = 0; place < side_px; place++) {
        Pair pair = pair_of(shown_at(place, motion->down, motion->flip_vertical, side_px), scale);
        int wanted[2] = {inside_rows(pixels, pair.at), inside_rows(pixels, pair.at + 1)};
        if ((held[0] != wanted[0] && held[1] == wanted[0]) || (held[1] != wanted[1] && held[0] == wanted[1])) {
            int16_t *upper = stretched[0]; /* becomes the lower one, or the lower one the upper */
            int row = held[0];
            stretched[0] = stretched[1];
            stretched[1] = upper;
            held[0] = held[1];
            held[1] = row;
        }
        for (int each = 0; each < 2; each++) {
            int row = wanted[each];
            if (held[each] == row) {
                continue;
            }
            const unsigned char *source = made;
            if (is_smoothed) {
                smooth_row(pixels, row, across, down, made);
            } else {
                source = with_slack(pixels, row, made);
            }
            stretch_row(&plan, source, stretched[each]);
            held[each] = row;
        }
        unsigned char *to = out + (size_t)place * side_px * CHANNELS;
        mix_rows(stretched[0], stretched[1], pair.weights, to, side_px * CHANNELS);
    }
    return 1;
}

int can_stretch(void)
{
    return __builtin_cpu_supports("avx2");
}

#else /* another processor or compiler */

int can_stretch(void)
{
    return 0;
}

int stretch(const Pixels *pixels, int side_px, const Motion *motion, unsigned char *out)
{
    (void)pixels, (void)side_px, (void)motion, (void)out;
    return 0;
}

#endif
