// Training pairs as tokens, a pure function of (seed, step, row): the twin of adderlab.task.sampling,
// equal bit for bit. J operand columns, units first, digits below BASE.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "pool.hpp"
#include "sampling.hpp"

namespace {

constexpr int WORD_BITS = 59;
constexpr uint64_t WORD_MASK = (uint64_t(1) << WORD_BITS) - 1;
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

enum Pattern { SINGLE, CHAIN, PLACE, BOUNDARY, PROPAGATE };

inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

inline uint64_t word_of(uint64_t key, int64_t row, int draw) {
    return mix(key + uint64_t(16 * row + draw + 1) * GOLDEN) >> 5;
}

// ``most``: the largest that ``below`` may be. Above 15 the word is first cut by two bits.
inline int take(uint64_t& word, int below, int most) {
    const int cut = most > 15 ? 2 : 0, bits = WORD_BITS - cut;
    uint64_t product = (word >> cut) * uint64_t(below);
    word = (product & ((uint64_t(1) << bits) - 1)) << cut;
    return int(product >> bits);
}

inline int take(uint64_t& word, int below) { return take(word, below, below); }

// A row number below ``rows``, which is at most 2^30, from the first 32 bits of a word.
inline int64_t row_below(uint64_t word, int64_t rows) {
    return int64_t(((word >> (WORD_BITS - 32)) * uint64_t(rows)) >> 32);
}

constexpr int PER_WORD = 10;  // digits that one word has

// The size of the task: known to the compiler for the published one, so that its loops are unrolled and its
// divisions are multiplications; read from the request for every other.
struct Published {
    static constexpr int J = 10, BASE = 10;
    explicit Published(const Sampling*) {}
};

struct AnySize {
    const int J, BASE;
    explicit AnySize(const Sampling* s) : J(s->columns), BASE(s->base) {}
};

// The digits of one operand, from draw number ``draw`` and, beyond ten columns, from ``more``.
template <class Size>
inline void operand(const Size& size, uint64_t key, int64_t row, int draw, int more, uint8_t* digit) {
    uint64_t word = word_of(key, row, draw);
    for (int j = 0; j < std::min(size.J, PER_WORD); j++) digit[j] = uint8_t(take(word, size.BASE));
    if (size.J <= PER_WORD) return;
    word = word_of(key, row, more);
    for (int j = PER_WORD; j < size.J; j++) digit[j] = uint8_t(take(word, size.BASE));
}

// Replaces the uniform digits a and b by a carry pattern built from them (adderlab.task.sampling).
template <class Size>
void carry_pattern(
    const Size& size, const int32_t* patterns, int count, uint64_t word, int max_digits, uint8_t* a, uint8_t* b
) {
    const int J = size.J, BASE = size.BASE, TOP = BASE - 1;
    int length = std::min(take(word, max_digits, J) + 1, J);
    int which = take(word, count);
    int column = take(word, length, J), first = take(word, TOP), second = take(word, first + 1, TOP);
    int run = take(word, length - column, J), third = take(word, TOP);
    uint8_t x[MOST] = {}, y[MOST] = {};
    switch (patterns[which]) {
        case SINGLE:
            for (int j = 0; j < length; j++) {
                const int half = (BASE + 1) / 2, first_digit = j == column ? half : 0;
                const int digits = j == column ? BASE - half : half;
                x[j] = uint8_t(first_digit + a[j] % digits);
                y[j] = uint8_t(first_digit + b[j] % digits);
            }
            break;
        case CHAIN: {
            int k = std::min(length, 3), sum = 0;
            for (int j = 0; j < length; j++) x[j] = TOP;
            for (int j = 0; j < k; j++) sum += y[j] = b[j];
            if (sum == 0 && k < J) y[k] = 1;
            break;
        }
        case PLACE:
            for (int j = 0; j < length; j++) x[j] = j + 1 == length ? first + 1 : a[j];
            y[column] = third + 1;
            break;
        case BOUNDARY: {
            for (int j = 0; j < length; j++) x[j] = TOP;
            x[0] = a[0];
            int small = 1 + b[0] + BASE * (J > 1 ? b[1] % 2 : 0);
            for (int j = 0; j < std::min(J, 3); j++, small /= BASE) y[j] = uint8_t(small % BASE);
            break;
        }
        case PROPAGATE:
            for (int j = 0; j < length; j++) {
                bool here = j == column, passing = j > column && j <= column + run;
                x[j] = here ? first + 1 : a[j];
                y[j] = here ? TOP - second : passing ? TOP - a[j] : b[j];
            }
            break;
    }
    std::memcpy(a, x, J);
    std::memcpy(b, y, J);
}

template <class Size>
void sample_sized(const Sampling* s, int64_t seed) {
    const Size size(s);
    const int J = size.J, BASE = size.BASE;
    for (int row = 0; row < s->batch; row++) {
        uint64_t key = s->key[seed];
        int64_t drawn = row;  // whose words the pair is made of
        if (s->pool) {
            drawn = row_below(word_of(key, row, 0), s->pool);
            key = s->pool_key[seed];
        }
        uint8_t a[MOST], b[MOST];
        operand(size, key, drawn, 0, 5, a);
        operand(size, key, drawn, 1, 6, b);
        if (s->threshold && word_of(key, drawn, 3) < s->threshold) {
            carry_pattern(size, s->patterns, s->pattern_count, word_of(key, drawn, 4), s->max_digits, a, b);
        } else {
            int length = s->max_digits;
            if (s->uniform_lengths) {
                uint64_t word = word_of(key, drawn, 2);
                length = take(word, s->max_digits, J) + 1;
            }
            for (int j = length; j < J; j++) a[j] = b[j] = 0;
        }
        int64_t index = int64_t(seed) * s->batch + row;
        uint8_t *token = s->tokens + index * s->positions, *target = s->targets + index * s->answers;
        std::memcpy(token, s->blank, s->prompt);
        int carry = 0;
        for (int j = 0; j < J; j++) {
            token[s->a_position[j]] = a[j];
            token[s->b_position[j]] = b[j];
            int sum = a[j] + b[j] + carry;
            carry = sum >= BASE;
            target[j] = uint8_t(sum - BASE * carry);
        }
        target[J] = uint8_t(carry);
        if (s->end_token >= 0) target[J + 1] = uint8_t(s->end_token);
        std::memcpy(token + s->prompt, target, s->answers - 1);
    }
}

void sample_seed(const Sampling* s, int64_t seed) {
    if (s->columns == Published::J && s->base == Published::BASE) sample_sized<Published>(s, seed);
    else sample_sized<AnySize>(s, seed);
}

}  // namespace

extern "C" {

// One seed's pairs on the calling thread.
void adderlab_sample_seed(const Sampling* s, int64_t seed) { sample_seed(s, seed); }

void adderlab_sample(const Sampling* s) {
    Pool::get().run(s->threads, s->seeds, [s](int64_t seed, int) { sample_seed(s, seed); });
}

// The key of a seed's training pairs at one step (adderlab.task.sampling; stream 0).
uint64_t adderlab_train_key(uint64_t seed, uint64_t step) {
    return mix(seed * GOLDEN + mix(mix(GOLDEN) + step));
}

}  // extern "C"
