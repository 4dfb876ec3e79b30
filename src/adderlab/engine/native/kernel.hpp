// Loss and gradient, margins and greedy decoding of one table form; engine.py calls this. Included at the
// end of the source that head.py writes.
//
// Work is done in blocks of W samples. A block's keys and values are looked up once; its answer
// steps, one column each, then go through the network together, phase by phase.

#include <memory>
#include <new>

#include "attention.hpp"
#include "block.hpp"
#include "loss.hpp"
#include "pool.hpp"
#include "request.hpp"
#include "tables.hpp"

namespace {

constexpr int QB = query_block();
constexpr int CHUNK = 256;       // samples summed in single precision before the double sums
// Blocks decoded together: several fill the processor's waiting times, as long as their keys, values and
// columns stay in its first-level cache. On an AMD EPYC with 48 KB of it, two instead of four take 15%
// off the 456p's time, and would add 15% to the 305p's.
constexpr size_t DECODED_BYTES = sizeof(vf) * P * KV + sizeof(Column);
constexpr int DECODE_BLOCKS = 4 * DECODED_BYTES <= 60'000 ? 4 : 2;
constexpr int PORTION = 1024;    // samples decoded or measured per work item

struct Workspace {
    Weights weights;
    Sums sums;
    Totals totals;
    Block block[DECODE_BLOCKS];
    Column column[A > DECODE_BLOCKS ? A : DECODE_BLOCKS];
    vf weight[H][A][P];
    Curve curve;
    bool good_tokens;
};

// The tables of one seed.
template <class Pointer>
struct SeedTables {
    Pointer at[TABLES];
    SeedTables(const Pointer* tables, int seed) {
        for (int t = 0; t < TABLES; t++) at[t] = tables[t] ? tables[t] + int64_t(seed) * TABLE_SIZE[t] : nullptr;
    }
};

void load_seed(const Request& r, int seed, Weights& w) {
    load_weights(SeedTables<const float*>(r.table, seed).at, w);
}

INLINE void look_up_query(const Weights& w, int step, const uint8_t* token, Column& c) {
    vi index = widen(token);
    for (int k = 0; k < HK; k++) c.query[k] = lookup(w.query_row[step][k], index);
    if constexpr (SINK)
        for (int h = 0; h < H; h++) c.sink_weight[h] = lookup(w.query_row[step][HK + R + h], index);
}

template <bool SHIFT>
NOINLINE void attention(const Block& block, Workspace& ws) {
    for (int step = 0; step < A; step++)
        look_up_query(ws.weights, step, block.query_token(step), ws.column[step]);
    for (int h = 0; h < H; h++) {
        int step = 0;
        for (; step + QB <= A; step += QB)
            attend<SHIFT, QB>(block.kv, T + step, h, ws.column + step, ws.weight[h] + step,
                              ScoreParts(ws.weights, block, ws.curve, step, h, step));
        for (; step < A; step++)
            attend<SHIFT, 1>(block.kv, T + step, h, ws.column + step, ws.weight[h] + step,
                             ScoreParts(ws.weights, block, ws.curve, step, h, step));
    }
}

// Steps in falling order: the last ones touch all positions that the others touch.
NOINLINE void attention_back(Block& block, Workspace& ws) {
    auto back = [&](auto fresh, auto queries, int step) __attribute__((always_inline)) {
        for (int h = 0; h < H; h++)
            attend_back<fresh, queries>(block.kv, block.kv_grad, T + step, h, ws.column + step,
                                        ws.weight[h] + step,
                                        ScoreGrad(ws.weights, ws.sums, block, ws.curve, step, h, step));
    };
    constexpr std::integral_constant<int, QB> many;
    constexpr std::integral_constant<int, 1> one;
    int step = A - (A % QB ? 1 : QB);
    if constexpr (A % QB) back(std::true_type{}, one, step);
    else back(std::true_type{}, many, step);
    while (step % QB) back(std::false_type{}, one, --step);
    while (step > 0) back(std::false_type{}, many, step -= QB);
}

// The stages of the head but for the last, which makes the logits.
NOINLINE void forward(const Block& block, Workspace& ws) {
    const Weights& w = ws.weights;
    unroll<STAGES>(EACH(i) {
        for (int a = 0; a < A; a++)
            stage(i, w, w.query_row[a], widen(block.query_token(a)), ws.column[a]);
    });
}

NOINLINE vf loss(const Block& block, Workspace& ws) {
    const Weights& w = ws.weights;
    vf sum{};
    for (int a = 0; a < A; a++)
        sum += loss_and_logit_grad(w, w.query_row[a], widen(block.query_token(a)), widen(block.target[a]),
                                   block.valid, ws.column[a]);
    return sum;
}

NOINLINE void backward(Workspace& ws) {
    unroll<BACK_STAGES>(EACH(i) {
        for (int a = 0; a < A; a++) back_stage(i, ws.weights, ws.column[a]);
    });
}

NOINLINE void weight_grads(Workspace& ws) { sum_weight_grads(A, ws.column[0], ws.sums.dense); }

NOINLINE void scatter(const Block& block, Workspace& ws) {
    for (int a = 0; a < A; a++)
        scatter_add<QR>(ws.column[a].row_grad, block.query_token(a), block.uniform[T - 1 + a],
                        ws.sums.qr + a * V * QR_ROW);
    for (int p = 0; p < P; p++)
        scatter_add<KV>(block.kv_grad[p], block.token[p], block.uniform[p], ws.sums.kv + p * V * KV_ROW);
}

void attend_all(Block& block, Workspace& ws) {
    for (int p = 0; p < P; p++) block.look_up_key(ws.weights, p);
    if (ws.weights.wide) attention<true>(block, ws);
    else attention<false>(block, ws);
}

void train_block(Workspace& ws) {
    Block& block = ws.block[0];
    attend_all(block, ws);
    forward(block, ws);
    vf losses = loss(block, ws);
    backward(ws);
    weight_grads(ws);
    attention_back(block, ws);
    scatter(block, ws);
    for (int l = 0; l < W; l++) ws.sums.loss[l] += losses[l];
}

void train_chunk(const Request& r, int seed, int start, Workspace& ws) {
    std::memset(&ws.sums, 0, sizeof ws.sums);
    for (int b = start; b < std::min(start + CHUNK, r.batch); b += W) {
        Block& block = ws.block[0];
        ws.good_tokens &= block.load_tokens<P>(r.tokens_of(seed), b);
        ws.good_tokens &= block.load_targets(r.targets_of(seed), b);
        train_block(ws);
    }
}

void finish_seed(const Request& r, int seed, Totals& totals) {
    double unit = 1.0 / (double(r.batch) * A);
    store_grads(totals, SeedTables<const float*>(r.table, seed).at, unit,
                SeedTables<float*>(r.grad, seed).at);
    r.loss[seed] = float(totals.loss * unit);
}

void train_seed(const Request& r, int seed, Workspace& ws) {
    load_seed(r, seed, ws.weights);
    for (int start = 0; start < r.batch; start += CHUNK) {
        train_chunk(r, seed, start, ws);
        add_chunk(ws.totals, ws.sums, start == 0);
    }
    finish_seed(r, seed, ws.totals);
}

// The workspaces of the threads, kept between calls; calls from several threads take turns.
struct Crew {
    std::mutex turn;
    std::vector<std::unique_ptr<Workspace>> workspace;

    // work(item, workspace) for every item; false if some token was outside the vocabulary.
    template <class Work>
    bool run(int threads, int64_t items, Work&& work) {
        threads = int(std::max<int64_t>(1, std::min<int64_t>(threads, items)));
        while (int(workspace.size()) < threads) workspace.emplace_back(new Workspace);
        for (auto& ws : workspace) ws->good_tokens = true;
        Pool::get().run(threads, items, [&](int64_t item, int worker) { work(item, *workspace[worker]); });
        bool good = true;
        for (auto& ws : workspace) good &= ws->good_tokens;
        return good;
    }
};
Crew crew;

// Fewer seeds than threads: the chunks of a seed are shared out, in waves, and added up in the same
// order as by one thread.
bool train_in_waves(const Request& r) {
    const int chunks = (r.batch + CHUNK - 1) / CHUNK, wave = 4 * r.threads;
    std::vector<Totals> part(std::min(wave, chunks));
    bool good = true;
    for (int seed = 0; seed < r.seeds; seed++) {
        std::unique_ptr<Totals> totals(new Totals);
        for (int from = 0; from < chunks; from += wave) {
            int count = std::min(wave, chunks - from);
            good &= crew.run(r.threads, count, [&](int64_t i, Workspace& ws) {
                load_seed(r, seed, ws.weights);
                train_chunk(r, seed, int(from + i) * CHUNK, ws);
                add_chunk(part[i], ws.sums, true);
            });
            for (int i = 0; i < count; i++) add_totals(*totals, part[i], from + i == 0);
        }
        finish_seed(r, seed, *totals);
    }
    return good;
}

bool train(const Request& r) {
    if (r.seeds < r.threads && r.batch > CHUNK) return train_in_waves(r);
    return crew.run(r.threads, r.seeds,
                    [&](int64_t seed, Workspace& ws) { train_seed(r, int(seed), ws); });
}

// work(seed, start, end, workspace) for portions of every seed's batch.
template <class Work>
bool each_portion(const Request& r, Work&& work) {
    const int64_t portions = (r.batch + PORTION - 1) / PORTION;
    return crew.run(r.threads, r.seeds * portions, [&](int64_t item, Workspace& ws) {
        int seed = int(item / portions), start = int(item % portions) * PORTION;
        load_seed(r, seed, ws.weights);
        work(seed, start, std::min(start + PORTION, r.batch), ws);
    });
}

bool margins(const Request& r) {
    return each_portion(r, [&](int seed, int start, int end, Workspace& ws) {
        Block& block = ws.block[0];
        for (int b = start; b < end; b += W) {
            ws.good_tokens &= block.load_tokens<P>(r.tokens_of(seed), b);
            ws.good_tokens &= block.load_targets(r.targets_of(seed), b);
            attend_all(block, ws);
            forward(block, ws);
            for (int a = 0; a < A; a++) {
                const Weights& w = ws.weights;
                vf margin = target_margin(w, w.query_row[a], widen(block.query_token(a)),
                                          widen(block.target[a]), ws.column[a]);
                for (int l = 0; l < std::min(W, end - b); l++)
                    r.margins[(int64_t(seed) * r.batch + b + l) * A + a] = margin[l];
            }
        }
    });
}

// Greedy decoding of blocks 0 ... count - 1, all at the same step.
template <bool SHIFT>
NOINLINE void decode_step(int step, int count, Workspace& ws) {
    const Weights& w = ws.weights;
    for (int c = 0; c < count; c++) {
        Block& block = ws.block[c];
        look_up_query(w, step, block.query_token(step), ws.column[c]);
        for (int h = 0; h < H; h++)
            attend<SHIFT, 1>(block.kv, T + step, h, ws.column + c, ws.weight[h],
                             ScoreParts(w, block, ws.curve, step, h, 0));
    }
    unroll<STAGES>(EACH(i) {
        for (int c = 0; c < count; c++)
            stage(i, w, w.query_row[step], widen(ws.block[c].query_token(step)), ws.column[c]);
    });
    for (int c = 0; c < count; c++) {
        vi token = widen(ws.block[c].query_token(step));
        vi best = best_token(w, w.query_row[step], token, ws.column[c]);
        for (int l = 0; l < W; l++) ws.block[c].token[T + step][l] = uint8_t(best[l]);
        if (T + step < P) ws.block[c].look_up_key(w, T + step);
    }
}

bool decode(const Request& r) {
    return each_portion(r, [&](int seed, int start, int end, Workspace& ws) {
        for (int b = start; b < end; b += DECODE_BLOCKS * W) {
            const int count = std::min(DECODE_BLOCKS, (end - b + W - 1) / W);
            for (int c = 0; c < count; c++) {
                ws.good_tokens &= ws.block[c].load_tokens<T>(r.tokens_of(seed), b + c * W);
                for (int p = 0; p < T; p++) ws.block[c].look_up_key(ws.weights, p);
            }
            for (int step = 0; step < A; step++)
                if (ws.weights.wide) decode_step<true>(step, count, ws);
                else decode_step<false>(step, count, ws);
            for (int i = 0; i < std::min(count * W, end - b); i++)
                for (int a = 0; a < A; a++)
                    r.answers[(int64_t(seed) * r.batch + b + i) * A + a] = ws.block[i / W].token[T + a][i % W];
        }
    });
}

// 0: done. 1: a token outside the vocabulary. 2: out of memory.
template <class Work>
int guarded(const Request* request, Work&& work) {
    std::lock_guard<std::mutex> lock(crew.turn);
    FlushDenormals flush;
    try {
        return work(*request) ? 0 : 1;
    } catch (const std::bad_alloc&) {
        return 2;
    }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int adderlab_request_size() { return sizeof(Request); }
EXPORT int adderlab_loss_and_grad(const Request* request) { return guarded(request, train); }

// The same for a single seed on the calling thread, in a workspace of the caller's own: any number of
// threads may do so at once.
EXPORT void* adderlab_new_workspace() { return new (std::nothrow) Workspace; }
EXPORT void adderlab_delete_workspace(void* workspace) { delete (Workspace*)workspace; }
EXPORT int adderlab_train_seed(const Request* request, void* workspace) {
    Workspace& ws = *(Workspace*)workspace;
    ws.good_tokens = true;
    train_seed(*request, 0, ws);
    return ws.good_tokens ? 0 : 1;
}
EXPORT int adderlab_margins(const Request* request) { return guarded(request, margins); }
EXPORT int adderlab_decode(const Request* request) { return guarded(request, decode); }
