// Runs one kernel on one request in a program of its own, for processors that this one is not.
//
// Reads from stdin: seeds, batch, tables, positions, answers (int32 each); for every table its number of
// values of all seeds (int64, 0 where there is none) and the values; tokens; targets. Writes to stdout
// the losses, then the gradient of every table that is there. KERNEL is the kernel's source.
#include KERNEL

#include <cstdio>
#include <vector>

template <class T>
static std::vector<T> taken(int64_t count) {
    std::vector<T> values(count);
    if (fread(values.data(), sizeof(T), count, stdin) != size_t(count)) exit(3);
    return values;
}

int main() {
    const auto sizes = taken<int32_t>(5);
    const int seeds = sizes[0], batch = sizes[1], tables = sizes[2], positions = sizes[3], answers = sizes[4];
    std::vector<std::vector<float>> table, grad;
    std::vector<const float*> table_at;
    std::vector<float*> grad_at;
    for (int t = 0; t < tables; t++) {
        table.push_back(taken<float>(taken<int64_t>(1)[0]));
        grad.emplace_back(table[t].size());
    }
    for (int t = 0; t < tables; t++) {
        table_at.push_back(table[t].empty() ? nullptr : table[t].data());
        grad_at.push_back(grad[t].empty() ? nullptr : grad[t].data());
    }
    const auto tokens = taken<uint8_t>(int64_t(seeds) * batch * positions);
    const auto targets = taken<uint8_t>(int64_t(seeds) * batch * answers);
    std::vector<float> loss(seeds);
    Request request{};
    request.seeds = seeds, request.batch = batch, request.threads = 2, request.tables = tables;
    request.tokens = tokens.data(), request.targets = targets.data();
    request.token_row = positions, request.target_row = answers;
    request.token_seed = int64_t(batch) * positions, request.target_seed = int64_t(batch) * answers;
    request.table = table_at.data(), request.grad = grad_at.data(), request.loss = loss.data();
    if (int status = adderlab_loss_and_grad(&request)) return status;
    fwrite(loss.data(), sizeof(float), loss.size(), stdout);
    for (const auto& values : grad) fwrite(values.data(), sizeof(float), values.size(), stdout);
    return 0;
}
