/* Sums of a state and weighted slopes, and norms of scaled errors, in one pass over memory.

   A row holds which slopes count and their weights; the slopes themselves are a table of pointers
   that grows while a step goes on. Sums equal torch's chain of additions to the bit: weights are
   multiplied by the step size in double and rounded once, and term after term is added with one
   rounding each. So a solve is the same whether it is recorded or not. */

#include <math.h>
#include <stdint.h>

#define MOST 32
#define LANES 16
#define BLOCK 512

typedef struct {
    int64_t count;
    int64_t index[MOST];
    double weight[MOST];
} Row;

#define TERM(i) w[i] * k[i][j]
#define TERMS1 TERM(0)
#define TERMS2 TERMS1 + TERM(1)
#define TERMS3 TERMS2 + TERM(2)
#define TERMS4 TERMS3 + TERM(3)
#define TERMS5 TERMS4 + TERM(4)
#define TERMS6 TERMS5 + TERM(5)
#define TERMS7 TERMS6 + TERM(6)

#define SUM_CASE(m)                                                                  \
    case m:                                                                          \
        for (int64_t j = 0; j < n; j++) out[j] = from[j] + TERMS##m;                 \
        break;

#define TERMS_CASE(m)                                                                \
    case m:                                                                          \
        for (int64_t j = 0; j < n; j++) out[j] = TERMS##m;                         \
        break;

#define KERNELS(T, NAME, ABS)                                                        \
    static int64_t terms_##NAME(void *const *ks, const Row *row, int64_t at, double h, \
                                const T **k, T *w) {                                 \
        int64_t left = row->count - at, m = left < 7 ? left : 7;                     \
        for (int64_t i = 0; i < m; i++) {                                            \
            k[i] = (const T *)ks[row->index[at + i]];                                \
            w[i] = (T)(h * row->weight[at + i]);                                     \
        }                                                                            \
        return m;                                                                    \
    }                                                                                \
                                                                                     \
    static void add_##NAME(const T *const *k, const T *w, int64_t m, const T *from,  \
                           T *out, int64_t n) {                                      \
        switch (m) {                                                                 \
            SUM_CASE(1) SUM_CASE(2) SUM_CASE(3) SUM_CASE(4)                          \
            SUM_CASE(5) SUM_CASE(6) SUM_CASE(7)                                      \
        }                                                                            \
    }                                                                                \
                                                                                     \
    static void weigh_##NAME(const T *const *k, const T *w, int64_t m, T *out, int64_t n) { \
        switch (m) {                                                                 \
            TERMS_CASE(1) TERMS_CASE(2) TERMS_CASE(3) TERMS_CASE(4)                  \
            TERMS_CASE(5) TERMS_CASE(6) TERMS_CASE(7)                                \
        }                                                                            \
    }                                                                                \
                                                                                     \
    /* out = y + h sum w k, without y where there is none */                         \
    void combine_##NAME(void *const *ks, const Row *row, const T *y, T *out, double h, \
                        int64_t n) {                                                 \
        const T *from = y;                                                           \
        for (int64_t at = 0; at < row->count; at += 7) {                             \
            const T *k[7];                                                           \
            T w[7];                                                                  \
            int64_t m = terms_##NAME(ks, row, at, h, k, w);                          \
            if (from)                                                                \
                add_##NAME(k, w, m, from, out, n);                                   \
            else                                                                     \
                weigh_##NAME(k, w, m, out, n);                                       \
            from = out;                                                              \
        }                                                                            \
    }                                                                                \
                                                                                     \
    static double squares_##NAME(const T *error, int64_t length) {                   \
        T lanes[LANES] = {0};                                                        \
        double total = 0.0;                                                          \
        int64_t whole = length - length % LANES;                                     \
        for (int64_t j = 0; j < whole; j += LANES)                                   \
            for (int i = 0; i < LANES; i++) lanes[i] += error[j + i] * error[j + i]; \
        for (int64_t j = whole; j < length; j++) lanes[j - whole] += error[j] * error[j]; \
        for (int i = 0; i < LANES; i++) total += (double)lanes[i];                   \
        return total;                                                                \
    }                                                                                \
                                                                                     \
    /* The sum of squares of h sum w k / (atol + rtol max(|y0|, |y1|)): blocks that stay in the \
       first cache, in a fixed order. An infinite y1 makes it NaN, for its allowance is infinite. */ \
    double finish_##NAME(void *const *ks, const Row *row, const T *y0, const T *y1,  \
                         double h, double rtol, double atol, int64_t n) {            \
        T error[BLOCK], relative = (T)rtol, absolute = (T)atol;                      \
        double total = 0.0;                                                          \
        for (int64_t start = 0; start < n; start += BLOCK) {                         \
            int64_t length = n - start < BLOCK ? n - start : BLOCK;                  \
            for (int64_t at = 0; at < row->count; at += 7) {                         \
                const T *k[7];                                                       \
                T w[7];                                                              \
                int64_t m = terms_##NAME(ks, row, at, h, k, w);                      \
                for (int64_t i = 0; i < m; i++) k[i] += start;                       \
                if (at == 0)                                                         \
                    weigh_##NAME(k, w, m, error, length);                            \
                else                                                                 \
                    add_##NAME(k, w, m, error, error, length);                       \
            }                                                                        \
            const T *a = y0 + start, *b = y1 + start;                                \
            for (int64_t j = 0; j < length; j++) {                                   \
                T p = ABS(a[j]), q = ABS(b[j]);                                      \
                error[j] = error[j] / (absolute + relative * (p > q ? p : q)) + b[j] * (T)0; \
            }                                                                        \
            total += squares_##NAME(error, length);                                  \
        }                                                                            \
        return total;                                                                \
    }

KERNELS(float, f32, fabsf)
KERNELS(double, f64, fabs)

/* The same with a step for each row of a batch: `rows` of `width` entries. What a row's slopes add
   up to is divided by the row's first weight, as in torch's chain, to whose bits sums are equal. */
#define ROW_KERNELS(T, NAME, ABS)                                                    \
    /* Each entry of a block, flat from `start`, gets its row's step. */             \
    static void spread_##NAME(const double *h, int64_t width, int64_t start,         \
                              int64_t length, T *steps) {                            \
        int64_t row = start / width, left = width - start % width;                   \
        for (int64_t j = 0; j < length; row++, left = width) {                       \
            T step = (T)h[row];                                                      \
            int64_t end = left < length - j ? j + left : length;                     \
            for (; j < end; j++) steps[j] = step;                                    \
        }                                                                            \
    }                                                                                \
                                                                                     \
    static void relative_##NAME(void *const *ks, const Row *row, int64_t start,      \
                                int64_t length, T *sum) {                            \
        const T *from = (const T *)ks[row->index[0]] + start;                        \
        for (int64_t at = 1; at < row->count; at += 7, from = sum) {                 \
            int64_t left = row->count - at, m = left < 7 ? left : 7;                 \
            const T *k[7];                                                           \
            T w[7];                                                                  \
            for (int64_t i = 0; i < m; i++) {                                        \
                k[i] = (const T *)ks[row->index[at + i]] + start;                    \
                w[i] = (T)(row->weight[at + i] / row->weight[0]);                    \
            }                                                                        \
            add_##NAME(k, w, m, from, sum, length);                                  \
        }                                                                            \
        if (from != sum)                                                             \
            for (int64_t j = 0; j < length; j++) sum[j] = from[j];                   \
    }                                                                                \
                                                                                     \
    void combine_rows_##NAME(void *const *ks, const Row *row, const T *y, T *out,    \
                             const double *h, int64_t rows, int64_t width) {         \
        T sum[BLOCK], steps[BLOCK], first = (T)row->weight[0];                       \
        int64_t n = rows * width;                                                    \
        for (int64_t start = 0; start < n; start += BLOCK) {                         \
            int64_t length = n - start < BLOCK ? n - start : BLOCK;                  \
            spread_##NAME(h, width, start, length, steps);                           \
            relative_##NAME(ks, row, start, length, sum);                            \
            for (int64_t j = 0; j < length; j++)                                     \
                out[start + j] = y[start + j] + first * steps[j] * sum[j];           \
        }                                                                            \
    }                                                                                \
                                                                                     \
    /* The root mean square of every row; infinite for NaN. */                       \
    void finish_rows_##NAME(void *const *ks, const Row *row, const T *y0, const T *y1, \
                            const double *h, double rtol, double atol, int64_t rows, \
                            int64_t width, double *norms) {                          \
        T error[BLOCK], steps[BLOCK], first = (T)row->weight[0];                     \
        T relative = (T)rtol, absolute = (T)atol;                                    \
        int64_t n = rows * width;                                                    \
        for (int64_t i = 0; i < rows; i++) norms[i] = 0.0;                           \
        for (int64_t start = 0; start < n; start += BLOCK) {                         \
            int64_t length = n - start < BLOCK ? n - start : BLOCK;                  \
            spread_##NAME(h, width, start, length, steps);                           \
            relative_##NAME(ks, row, start, length, error);                          \
            const T *a = y0 + start, *b = y1 + start;                                \
            for (int64_t j = 0; j < length; j++) {                                   \
                T p = ABS(a[j]), q = ABS(b[j]);                                      \
                error[j] = first * steps[j] * error[j]                               \
                           / (absolute + relative * (p > q ? p : q)) + b[j] * (T)0;  \
            }                                                                        \
            int64_t at = start / width, left = width - start % width;                \
            for (int64_t j = 0; j < length; at++, left = width) {                    \
                int64_t end = left < length - j ? j + left : length;                 \
                norms[at] += squares_##NAME(error + j, end - j);                     \
                j = end;                                                             \
            }                                                                        \
        }                                                                            \
        for (int64_t i = 0; i < rows; i++) {                                         \
            double mean = norms[i] / (double)width;                                  \
            norms[i] = mean >= 0.0 ? sqrt(mean) : INFINITY;                          \
        }                                                                            \
    }                                                                                \
                                                                                     \
    /* out[i] = y[r] + h[r] sum_j b_j(theta[i]) k_j[r] with r = rows[i]: of the slopes of `row` \
       the b_j are polynomials without a constant term. */                           \
    void output_rows_##NAME(void *const *ks, const Row *row, const T *y, T *out,     \
                            const double *h, const int64_t *rows, const double *theta, \
                            const double *coefficients, int64_t degree, int64_t count, \
                            int64_t width) {                                         \
        for (int64_t i = 0; i < count; i++) {                                        \
            const T *from = y + rows[i] * width;                                     \
            T *to = out + i * width;                                                 \
            for (int64_t j = 0; j < row->count; j++, from = to) {                    \
                const T *k = (const T *)ks[row->index[j]] + rows[i] * width;         \
                double b = 0.0;                                                      \
                for (int64_t p = degree; p-- > 0;)                                   \
                    b = (b + coefficients[j * degree + p]) * theta[i];               \
                T weight = (T)(b * h[rows[i]]);                                      \
                for (int64_t x = 0; x < width; x++) to[x] = from[x] + weight * k[x]; \
            }                                                                        \
        }                                                                            \
    }

ROW_KERNELS(float, f32, fabsf)
ROW_KERNELS(double, f64, fabs)
