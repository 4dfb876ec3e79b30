// Training pairs as tokens, a pure function of (seed, step, row): the twin of adderlab.task.sampling,
// equal bit for bit. J = 10 operand columns, units first.

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

inline uint64_t word_of(uint64_t key, int row, int draw) {
    return mix(key + uint64_t(16 * row + draw + 1) * GOLDEN) >> 5;
}

inline int take(uint64_t& word, int below) {
    uint64_t product = word * uint64_t(below);
    word = product & WORD_MASK;
    return int(product >> WORD_BITS);
}

inline void ten_digits(uint64_t word, uint8_t* digit) {
    for (int j = 0; j < J; j++) digit[j] = uint8_t(take(word, 10));
}

// Replaces the uniform digits a and b by a carry pattern built from them (adderlab.task.sampling).
void carry_pattern(const int32_t* patterns, int count, uint64_t word, int max_digits, uint8_t* a, uint8_t* b) {
    int length = std::min(take(word, max_digits) + 1, J);
    int which = take(word, count);
    int column = take(word, length), first = take(word, 9), second = take(word, first + 1);
    int run = take(word, length - column), third = take(word, 9);
    uint8_t x[J] = {}, y[J] = {};
    switch (patterns[which]) {
        case SINGLE:
            for (int j = 0; j < length; j++) {
                int lift = j == column ? 5 : 0;
                x[j] = a[j] % 5 + lift;
                y[j] = b[j] % 5 + lift;
            }
            break;
        case CHAIN: {
            int k = std::min(length, 3), sum = 0;
            for (int j = 0; j < length; j++) x[j] = 9;
            for (int j = 0; j < k; j++) sum += y[j] = b[j];
            if (sum == 0) y[k] = 1;
            break;
        }
        case PLACE:
            for (int j = 0; j < length; j++) x[j] = j + 1 == length ? first + 1 : a[j];
            y[column] = third + 1;
            break;
        case BOUNDARY: {
            for (int j = 0; j < length; j++) x[j] = 9;
            x[0] = a[0];
            int small = 1 + b[0] + 10 * (b[1] % 2);
            y[0] = small % 10;
            y[1] = small / 10;
            break;
        }
        case PROPAGATE:
            for (int j = 0; j < length; j++) {
                bool here = j == column, passing = j > column && j <= column + run;
                x[j] = here ? first + 1 : a[j];
                y[j] = here ? 9 - second : passing ? 9 - a[j] : b[j];
            }
            break;
    }
    std::memcpy(a, x, J);
    std::memcpy(b, y, J);
}

void sample_seed(const Sampling* s, int64_t seed) {
    for (int row = 0; row < s->batch; row++) {
        uint64_t key = s->key[seed];
        uint8_t a[J], b[J];
        ten_digits(word_of(key, row, 0), a);
        ten_digits(word_of(key, row, 1), b);
        if (s->threshold && word_of(key, row, 3) < s->threshold) {
            carry_pattern(s->patterns, s->pattern_count, word_of(key, row, 4), s->max_digits, a, b);
        } else {
            int length = s->max_digits;
            if (s->uniform_lengths) {
                uint64_t word = word_of(key, row, 2);
                length = take(word, s->max_digits) + 1;
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
            carry = sum >= 10;
            target[j] = uint8_t(sum - 10 * carry);
        }
        target[J] = uint8_t(carry);
        if (s->end_token >= 0) target[J + 1] = uint8_t(s->end_token);
        std::memcpy(token + s->prompt, target, s->answers - 1);
    }
}

}  // namespace

extern "C" {

// One seed's pairs on the calling thread.
void adderlab_sample_seed(const Sampling* s, int64_t seed) { sample_seed(s, seed); }

void adderlab_sample(const Sampling* s) {
    Pool::get().run(s->threads, s->seeds, [s](int64_t seed, int) { sample_seed(s, seed); });
}

// The key of a seed's training pairs at one step (adderlab.task.counter; stream 0).
uint64_t adderlab_train_key(uint64_t seed, uint64_t step) {
    return mix(seed * GOLDEN + mix(mix(GOLDEN) + step));
}

}  // extern "C"
