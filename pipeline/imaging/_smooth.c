/* Rows of pixels, smoothed by three taps down and three across: those that OpenCV's sepFilter2D gives.

   The taps are whole 256ths, so that sums are exact in any order; what is left is how they are rounded. OpenCV rounds
   halves to even where it works on 16 values at a time, and up in the rest of a row; but to even everywhere where one of
   the two directions has nothing to smooth. */

#include "_crops.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>
#include <string.h>

#define BLOCK 16
#define WITH_AVX2 __attribute__((target("avx2")))

/* Sums down are stored less 32768, to be signed. Across, where taps add up to 256, that is 32768 * 256 in all. */
#define SIGN 0x8000
#define LACK_1 16384
#define LACK_2 512

Taps taps_for(int length, int side_px)
{
    double shrink = (double)length / (double)side_px;
    int16_t outer = (int16_t)_mm_cvtsd_si32(_mm_set_sd((shrink - 1.0) / 4.0 * 256.0));
    return (Taps){outer, (int16_t)(256 - 2 * outer)};
}

WITH_AVX2 static inline __m256i widened(const unsigned char *values)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)values));
}

WITH_AVX2 static void sum_down(const unsigned char *const rows[3], Taps taps, int num_values, int16_t *sums)
{
    __m256i outer = _mm256_set1_epi16(taps.outer), inner = _mm256_set1_epi16(taps.inner);
    for (int value = 0; value < num_values; value += BLOCK) {
        __m256i both = _mm256_add_epi16(widened(rows[0] + value), widened(rows[2] + value));
        __m256i sum = _mm256_add_epi16(
            _mm256_mullo_epi16(both, outer), _mm256_mullo_epi16(widened(rows[1] + value), inner));
        _mm256_storeu_si256((__m256i *)(sums + value), _mm256_xor_si256(sum, _mm256_set1_epi16((int16_t)SIGN)));
    }
}

WITH_AVX2 static inline __m256i rounded(__m256i sum, int is_rest)
{
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(sum, 16), _mm256_set1_epi32(1));
    __m256i more = is_rest ? _mm256_set1_epi32(0x8000) : _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    return _mm256_srli_epi32(_mm256_add_epi32(sum, more), 16);
}

/* `sums` may be read a pixel before its first value; from `rest` on halves are rounded up. */
WITH_AVX2 static void sum_across(const int16_t *sums, Taps taps, int num_values, int rest, unsigned char *out)
{
    __m256i outer = _mm256_set1_epi16(taps.outer);
    __m256i inner = _mm256_set1_epi32((int)taps.inner | LACK_2 << 16), lack = _mm256_set1_epi16(LACK_1);
    for (int value = 0; value < num_values; value += BLOCK) {
        __m256i before = _mm256_loadu_si256((const __m256i *)(sums + value - CHANNELS));
        __m256i here = _mm256_loadu_si256((const __m256i *)(sums + value));
        __m256i after = _mm256_loadu_si256((const __m256i *)(sums + value + CHANNELS));
        __m256i low = _mm256_add_epi32(
            _mm256_madd_epi16(_mm256_unpacklo_epi16(before, after), outer),
            _mm256_madd_epi16(_mm256_unpacklo_epi16(here, lack), inner));
        __m256i high = _mm256_add_epi32(
            _mm256_madd_epi16(_mm256_unpackhi_epi16(before, after), outer),
            _mm256_madd_epi16(_mm256_unpackhi_epi16(here, lack), inner));
        __m256i words = _mm256_packus_epi32(rounded(low, value >= rest), rounded(high, value >= rest));
        __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words, words), 0x08); /* packing works by halves */
        _mm_storeu_si128((__m128i *)(out + value), _mm256_castsi256_si128(bytes));
    }
}

const unsigned char *with_slack(const Pixels *pixels, int row, unsigned char *copy)
{
    const unsigned char *first = pixels->first + (size_t)inside_rows(pixels, row) * pixels->pitch;
    size_t num_bytes = (size_t)pixels->columns * CHANNELS;
    if ((size_t)(pixels->end - first) >= num_bytes + SLACK_BYTES) {
        return first;
    }
    return memcpy(copy, first, num_bytes);
}

void smooth_row(const Pixels *pixels, int row, Taps across, Taps down, unsigned char *out)
{
    unsigned char copies[3][MAX_ROW_BYTES + SLACK_BYTES];
    int16_t memory[CHANNELS + MAX_ROW_BYTES + CHANNELS + BLOCK], *sums = memory + CHANNELS;
    const unsigned char *rows[3];
    int num_values = pixels->columns * CHANNELS;
    int rest = across.outer && down.outer ? num_values / BLOCK * BLOCK : num_values;
    for (int each = 0; each < 3; each++) {
        rows[each] = with_slack(pixels, row - 1 + each, copies[each]);
    }
    sum_down(rows, down, num_values, sums);
    memcpy(sums - CHANNELS, sums, CHANNELS * sizeof *sums);
    memcpy(sums + num_values, sums + num_values - CHANNELS, CHANNELS * sizeof *sums);
    sum_across(sums, across, num_values, rest, out);
}

#endif
