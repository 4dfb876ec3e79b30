// What the engines compute, for one pair at a time and in double precision: attention on tables, the head
// program, greedy answers. Beside it stand createMap (parameters -> tables), createHead (the head program)
// and scoreFunction (what queries times keys go through), which are written for one model.
//
// Names as in adderlab.models.tables: A answer steps, P positions, V vocabulary, H heads, K key and E value
// dimension, R width of the residual.

// Functions that JavaScript lacks, or defines otherwise at NaN.

function larger(a, b) { return a > b || a !== a ? a : b; }
function smaller(a, b) { return a < b || a !== a ? a : b; }
function sign(x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
function exp2(x) { return Math.pow(2, x); }
function nearbyint(x) {  // halves go to the even neighbour
    const low = Math.floor(x), rest = x - low;
    return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}
function isinf(x) { return x === Infinity || x === -Infinity; }
function isnan(x) { return x !== x; }
function isfinite(x) { return Number.isFinite(x); }
function sigmoid(x) { return 1 / (1 + Math.exp(-x)); }
function softplus(x, beta, threshold) {
    return x * beta > threshold ? x : Math.log1p(Math.exp(x * beta)) / beta;
}
function erf(x) {
    if (x !== x || x > 6 || x < -6) return x > 6 ? 1 : x < -6 ? -1 : NaN;
    // 2 / sqrt(pi) e^(-x^2) sum 2^n x^(2n+1) / (1 3 5 ... (2n+1)): all terms have one sign.
    let term = x, sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= 2 * x * x / (2 * n + 1);
    return sum * 1.1283791670955126 * Math.exp(-x * x);
}
function gelu(x) { return 0.5 * x * (1 + erf(x * Math.SQRT1_2)); }
function gelu_tanh(x) {
    return 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

function repeated(runs) {  // [[value, count], ...] -> an array
    return runs.flatMap(([value, count]) => new Array(count).fill(value));
}

function createEngine(form) {
    const { layout, heads: H, keyDim: K, valueDim: E, rowWidth: R, tables: names } = form;
    const V = layout.vocabulary.length, P = layout.positions, J = layout.columns;
    const [Z, T] = form.scoreTokens;  // of the table score: 1 where those tokens do not matter
    const map = createMap();
    let table = {}, head = null;

    // Parameters, an array each in the model's order, -> tables.
    function setParameters(values) {
        const made = map(values);
        table = Object.fromEntries(names.map((name, i) => [name, made[i]]));
        head = createHead(form.constants.map((name) => table[name]));
    }

    // Digits of a number's text in the model's base, units first.
    function digits(text) {
        return Array.from({ length: J }, (_, j) => parseInt(text[text.length - 1 - j] || "0", layout.base));
    }

    function add(a, b) {
        const sum = [], carries = [0];
        for (let j = 0; j < J; j++) {
            const total = a[j] + b[j] + carries[j];
            sum.push(total % layout.base);
            carries.push(total >= layout.base ? 1 : 0);
        }
        sum.push(carries[J]);
        return { sum, carries };
    }

    function prompt(a, b) {
        const tokens = layout.prompt.slice();
        for (let j = 0; j < J; j++) {
            if (layout.pairs) tokens[layout.a[j]] = layout.pairToken + layout.base * a[j] + b[j];
            else { tokens[layout.a[j]] = a[j]; tokens[layout.b[j]] = b[j]; }
        }
        return tokens;
    }

    const weights = Array.from({ length: H }, () => new Float64Array(P + 1));  // and of the sink
    const mixed = new Float64Array(H * E);

    // Answer step i after these tokens: what it looks at, the mixture, the logits. The arrays are
    // written anew by the next step.
    function step(tokens, i) {
        const last = layout.prompt.length - 1 + i, z = tokens[last];
        for (let h = 0; h < H; h++) attend(tokens, i, z, h, last);
        const row = table.residual.subarray((i * V + z) * R, (i * V + z + 1) * R);
        const values = head(mixed, row);
        return { weights, mixed, logits: values[values.length - 1], last };
    }

    function attend(tokens, i, z, h, last) {
        const own = weights[h], { query, key, score, sink, value, score_scale } = table;
        const q = ((i * V + z) * H + h) * K, scale = score_scale ? score_scale[i * H + h] : 1;
        const s = ((i * Z + (Z > 1 ? z : 0)) * H + h) * P * T;
        own.fill(0);
        let top = -Infinity;
        for (let p = 0; p <= last; p++) {
            const k = ((p * V + tokens[p]) * H + h) * K;
            let sum = 0;
            for (let n = 0; n < K; n++) sum += query[q + n] * key[k + n];
            if (score_scale) sum = scale * scoreFunction(sum);
            if (score) sum += score[s + p * T + (T > 1 ? tokens[p] : 0)];
            own[p] = sum;
            if (!(sum <= top)) top = sum;
        }
        if (sink) top = Math.max(top, sink[(i * V + z) * H + h]);
        let total = 0;
        for (let p = 0; p <= last; p++) total += own[p] = Math.exp(own[p] - top);
        if (sink) total += own[P] = Math.exp(sink[(i * V + z) * H + h] - top);
        for (let e = 0; e < E; e++) mixed[h * E + e] = 0;
        for (let p = 0; p <= P; p++) {
            own[p] /= total;
            if (p > last || own[p] === 0) continue;
            const v = ((p * V + tokens[p]) * H + h) * E;
            for (let e = 0; e < E; e++) mixed[h * E + e] += own[p] * value[v + e];
        }
    }

    function best(logits) {
        let found = 0;
        for (let v = 1; v < logits.length; v++) if (logits[v] > logits[found]) found = v;
        return found;
    }

    // The wanted token's logit minus the largest other; not a number where one of them is none.
    function margin(logits, wanted) {
        let other = -Infinity;
        for (let v = 0; v < logits.length; v++) {
            if (v !== wanted && !(logits[v] <= other)) other = logits[v];
        }
        return logits[wanted] - other;
    }

    // The steps that decide an answer, with their right tokens: the digits, perhaps the end token.
    function wanted(sum) {
        return layout.decided > J + 1 ? [...sum, layout.end] : sum;
    }

    // The smallest margin of a pair's steps, given the right earlier digits; the greedy answer is right
    // exactly if it is above 0. What follows a step that fails is not computed with `early`.
    function smallest(a, b, early) {
        const tokens = prompt(a, b), right = wanted(add(a, b).sum);
        let found = Infinity;
        for (let i = 0; i < right.length; i++) {
            const own = margin(step(tokens, i).logits, right[i]);
            if (!(own >= found)) found = own;
            if (early && !(own > 0)) break;
            tokens.push(right[i]);
        }
        return found;
    }

    // The greedy answer, step by step.
    function answer(a, b) {
        const tokens = prompt(a, b), { sum, carries } = add(a, b), right = wanted(sum), steps = [];
        for (let i = 0; i < right.length; i++) {
            const made = step(tokens, i), token = best(made.logits);
            steps.push({
                weights: made.weights.map((own) => Array.from(own)), mixed: Array.from(made.mixed),
                logits: Array.from(made.logits), last: made.last,
                token, wanted: right[i], margin: margin(made.logits, right[i]),
            });
            tokens.push(token);
        }
        return { tokens, sum, carries, steps, right: steps.every((s) => s.token === s.wanted) };
    }

    return { setParameters, digits, add, prompt, step, smallest, answer, tables: () => table };
}
