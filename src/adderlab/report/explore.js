// The explorer: what a reader sees of a model and does to it. All numbers come from createEngine
// (adderlab/engine/javascript); MODEL is what the page was made of (adderlab/report/explore.py).

const SLICE_MS = 12;  // of counting, before the page gets its turn again
const EACH_ALONE = 16;  // a model of up to so many numbers has a slider for each

const layout = MODEL.form.layout, J = layout.columns;
const engine = createEngine(MODEL.form);
const find = (id) => document.getElementById(id);
const escapeText = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const thousands = (n) => n.toLocaleString("en-US");
const short = (x) => !Number.isFinite(x) ? String(x) : x === 0 ? "0"
    : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(+x.toPrecision(4));
const subscript = (i) => i <= J ? `s<sub>${i}</sub>` : "end";

const original = MODEL.parameters.map((each) => each.values);  // of the checkpoint or of a snapshot
const current = original.map((values) => values.slice());  // single numbers moved
const scale = original.map(() => 1);  // of whole tensors
let pair = MODEL.pairs.first.map((text) => engine.digits(text));
let shown = null, chosen = 0, readout = null;

// Samples: strata, a few pairs of each.

const samples = MODEL.sample.groups.flatMap((group, g) =>
    Array.from({ length: group.count }, (_, k) => {
        const at = (group.start + k) * 2 * J, text = MODEL.sample.digits;
        const number = (from) => Array.from({ length: J }, (_, j) => parseInt(text[from + j], 36));
        return { group: g, order: k, a: number(at), b: number(at + J) };
    })).sort((x, y) => x.order - y.order || x.group - y.group);

// The number a + b + carry as the mixture holds it: for each step the linear function of the mixture that
// comes nearest to it over the samples, by least squares, of the model as it was stored.

function fitReadout() {
    const size = MODEL.form.heads * MODEL.form.valueDim + 1, steps = J + 1;
    const normal = Array.from({ length: steps }, () => new Float64Array(size * (size + 1)));
    const spread = Array.from({ length: steps }, () => [0, 0, 0]);
    const known = Array.from({ length: steps }, () => []);
    for (const { a, b } of samples.slice(0, 400)) {
        const tokens = engine.prompt(a, b), { sum, carries } = engine.add(a, b);
        for (let i = 0; i < steps; i++) {
            const x = [...engine.step(tokens, i).mixed, 1];
            const total = carries[i] + (i < J ? a[i] + b[i] : 0);
            for (let r = 0; r < size; r++) {
                for (let c = 0; c < size; c++) normal[i][r * (size + 1) + c] += x[r] * x[c];
                normal[i][r * (size + 1) + size] += x[r] * total;
            }
            const own = spread[i];
            own[0] += 1; own[1] += total; own[2] += total * total;
            known[i].push([x, total]);
            tokens.push(sum[i]);
        }
    }
    return normal.map((matrix, i) => {
        const weights = solve(matrix, size), [n, s, ss] = spread[i];
        const missed = known[i].reduce((sum, [x, total]) => sum + (read(weights, x) - total) ** 2, 0);
        return { weights, r2: 1 - missed / Math.max(1e-300, ss - s * s / n) };
    });
}

function read(weights, x) {
    return weights.reduce((sum, w, k) => sum + w * (k < x.length ? x[k] : 1), 0);
}

function solve(matrix, size) {  // Gauss with pivots; directions without numbers get none
    const row = (r) => matrix.subarray(r * (size + 1), (r + 1) * (size + 1));
    for (let r = 0; r < size; r++) row(r)[r] *= 1 + 1e-10;
    const used = [];
    for (let c = 0; c < size; c++) {
        let pivot = -1;
        for (let r = 0; r < size; r++) {
            if (!used.includes(r) && (pivot < 0 || Math.abs(row(r)[c]) > Math.abs(row(pivot)[c]))) pivot = r;
        }
        if (Math.abs(row(pivot)[c]) < 1e-12) { used.push(-1); continue; }
        used.push(pivot);
        for (let r = 0; r < size; r++) {
            if (r === pivot) continue;
            const times = row(r)[c] / row(pivot)[c];
            for (let k = c; k <= size; k++) row(r)[k] -= times * row(pivot)[k];
        }
    }
    return used.map((r, c) => r < 0 ? 0 : row(r)[size] / row(r)[c]);
}

// One pair.

function showPair(a, b, atWeakest = false) {
    pair = [a, b];
    find("a").value = numberText(a);
    find("b").value = numberText(b);
    find("problem").textContent = "";
    computePair();
    if (atWeakest) choose(shown.steps.indexOf(weakest(shown.steps)));
}

function weakest(steps) {
    return steps.reduce((low, s) => s.margin < low.margin || isnan(s.margin) ? s : low);
}

function numberText(digits) {
    return digits.map((digit) => layout.vocabulary[digit]).reverse().join("").replace(/^0+(?=.)/, "");
}

function computePair() {
    shown = engine.answer(...pair);
    chosen = Math.min(chosen, shown.steps.length - 1);
    drawAnswer();
    drawStep();
    drawEvery();
}

function readInputs() {
    const texts = ["a", "b"].map((id) => find(id).value.trim() || "0");
    const isDigit = (c) => parseInt(c, 36) < layout.base;
    const wrong = texts.find((text) => ![...text].every(isDigit) || text.replace(/^0+/, "").length > J);
    find("problem").textContent = wrong === undefined ? ""
        : `${wrong} is no number of up to ${J} digits; the answer below is of the last pair`;
    if (wrong !== undefined) return;
    pair = texts.map((text) => engine.digits(text));
    computePair();
}

function drawAnswer() {
    const { steps, sum } = shown, buttons = [];
    for (let i = steps.length - 1; i >= 0; i--) {
        const { token, wanted } = steps[i], good = token === wanted;
        const name = i <= J ? `s_${i}` : "end";
        const label = `${name}: writes ${layout.vocabulary[token]}, ${good ? "right" : "wrong"}`;
        buttons.push(`<button data-step="${i}" class="${good ? "good" : "bad"}" aria-label="${label}"
            aria-pressed="${i === chosen}" tabindex="${i === chosen ? 0 : -1}">
            ${escapeText(i > J ? "·" : tokenText(token))}<small>${i <= J ? i : "end"}</small></button>`);
    }
    const focused = find("written").contains(document.activeElement);
    find("written").innerHTML = buttons.join("");
    if (focused) find("written").querySelector("[aria-pressed=true]").focus();
    const wrong = steps.filter((s) => s.token !== s.wanted).length;
    const least = weakest(steps);
    const written = steps.slice(0, J + 1).map((s) => tokenText(s.token)).reverse().join("");
    find("live-pair").innerHTML = `${numberText(pair[0])} + ${numberText(pair[1])} =
        <span class="${shown.right ? "yes" : "no"}">${escapeText(written.replace(/^0+(?=.)/, ""))}</span>`;
    find("outcome").innerHTML = shown.right
        ? `<span class="yes">Right.</span> Smallest margin: ${short(least.margin)} logits,
           at ${subscript(steps.indexOf(least))}.`
        : `<span class="no">Wrong</span> in ${wrong} of ${steps.length} steps; the sum is
           ${numberText(sum)}.`;
}

function tokenText(token) {
    return layout.vocabulary[token].length > 2 ? "?" : layout.vocabulary[token];
}

function choose(step) {
    chosen = Math.max(0, Math.min(shown.steps.length - 1, step));
    drawAnswer();
    drawStep();
    drawEvery();
}

// One step.

function drawStep() {
    const step = shown.steps[chosen], parts = [];
    const heads = step.weights.length;
    find("step-title").innerHTML = `Step ${subscript(chosen)}: where it looks`;
    const mean = step.weights[0].map((_, p) => step.weights.reduce((s, w) => s + w[p], 0) / heads);
    parts.push(`<p class="muted">The sequence so far; the stronger the colour, the more
        weight${heads > 1 ? ` (mean of ${heads} heads)` : ""}. The frame is the query's own place.</p>`);
    parts.push(`<div class="tokens">${shown.tokens.map((token, p) =>
        p < layout.positions ? tokenCell(token, mean[p], p, step.last) : "").join("")}</div>`);
    for (let h = 0; h < heads; h++) {
        parts.push(`<h3>${heads > 1 ? `Head ${h}, by` : "By"} column</h3>${aligned(step, step.weights[h])}`);
    }
    find("look").innerHTML = parts.join("");
    drawMixture(step);
    drawLogits(step);
}

function tokenCell(token, weight, p, last) {
    const name = layout.vocabulary[token], word = name.length > 1 ? " word" : "";
    const kind = p === last ? " query" : p > last ? " hidden" : "";
    return `<span class="token${word}${kind}" title="position ${p}: weight ${weight.toFixed(4)}">
        <i style="opacity:${Math.min(0.85, weight).toFixed(3)}"></i><b>${escapeText(name)}</b></span>`;
}

function aligned(step, weights) {
    const columns = Array.from({ length: J + 1 }, (_, k) => J - k);
    const at = { a: layout.a, b: layout.b, sum: columns.map((_, j) => layout.prompt.length + j) };
    const rows = (layout.pairs ? ["a", "sum"] : ["a", "b", "sum"]).map((name) => {
        const cells = columns.map((j) => {
            const p = at[name][j];
            const there = p !== undefined && p < layout.positions && (name !== "sum" || p <= step.last);
            return `<td>${there ? tokenCell(shown.tokens[p], weights[p], p, step.last) : ""}</td>`;
        });
        return `<tr><th>${layout.pairs && name === "a" ? "a, b" : name}</th>${cells.join("")}</tr>`;
    });
    const head = columns.map((j) => `<th class="${j === chosen ? "here" : ""}">${j}</th>`).join("");
    const digits = new Set([...layout.a, ...layout.b]), others = [];
    for (let p = 0; p < layout.prompt.length; p++) {
        if (!digits.has(p) && weights[p] >= 0.0005) {
            others.push(`${escapeText(layout.vocabulary[shown.tokens[p]])} at ${p}: ${weights[p].toFixed(3)}`);
        }
    }
    if (weights[layout.positions] > 0) others.push(`sink: ${weights[layout.positions].toFixed(3)}`);
    return `<table class="aligned"><tr><th></th>${head}</tr>${rows.join("")}</table>
        <p class="muted">${others.length ? `On other tokens: ${others.join(", ")}.`
            : "Next to no weight is on other tokens."}</p>`;
}

function drawMixture(step) {
    const total = chosen < J ? pair[0][chosen] + pair[1][chosen] + shown.carries[chosen] : shown.carries[J];
    const values = step.mixed.map(short).join(", ");
    let text = `<p class="muted">What attention adds to the stream: ${step.mixed.length === 1
        ? "one number" : `${step.mixed.length} numbers`}: ${values}.</p>`;
    if (chosen <= J) {
        const { weights, r2 } = readout[chosen], held = read(weights, step.mixed);
        const most = chosen < J ? 2 * layout.base - 1 : 1;
        const parts = [pair[0][chosen], pair[1][chosen], shown.carries[chosen]].slice(chosen < J ? 0 : 2);
        text += `<p>${chosen < J ? "a + b + carry" : "The carry"} of this column is
            <strong>${chosen < J ? `${parts.join(" + ")} = ` : ""}${total}</strong>;
            the mixture holds <strong>${held.toFixed(2)}</strong>.</p>${numberLine(held, total, most)}
            <p class="muted">Read off by the linear function of the mixture that fits best over the sampled
            pairs (R² ${r2.toFixed(r2 > 0.999 ? 5 : 3)}${r2 < 0.9
                ? ": this model does not hold that number in its mixture alone" : ""}).</p>`;
    }
    find("mixture").innerHTML = text;
}

function numberLine(held, total, most) {
    const width = 420, place = (x) => 14 + (width - 28) * Math.max(-0.6, Math.min(most + 0.6, x)) / most;
    const marks = [];
    for (let k = 0; k <= most; k++) {
        marks.push(`<line class="${k === total ? "bound" : "tick"}" x1="${place(k)}" x2="${place(k)}"
            y1="26" y2="${k === total ? 40 : 34}"/>`);
        if (most < 12 || k % 2 === 0 || k === total) {
            marks.push(`<text class="${k === total ? "strong" : "num"}" x="${place(k)}" y="52"
                text-anchor="middle">${k}</text>`);
        }
    }
    return `<svg viewBox="0 0 ${width} 56" role="img" aria-label="The mixture holds ${held.toFixed(2)},
        the column's number is ${total}"><line class="axis" x1="8" x2="${width - 8}" y1="30" y2="30"/>
        ${marks.join("")}<circle class="best-dot" cx="${place(held)}" cy="14" r="6"/>
        <line class="best" x1="${place(held)}" x2="${place(held)}" y1="14" y2="30"/></svg>`;
}

function drawLogits(step) {
    const finite = step.logits.filter(Number.isFinite);
    const low = Math.min(...finite), high = Math.max(...finite), span = high - low || 1;
    const first = step.token, wanted = step.wanted;
    let order = step.logits.map((_, v) => v);
    if (order.length > 20) {  // the largest, and the right one
        order = order.sort((v, w) => step.logits[w] - step.logits[v]).slice(0, 20);
        if (!order.includes(wanted)) order[19] = wanted;
    }
    const rows = order.map((v) => {
        const share = 100 * (step.logits[v] - low) / span;
        const mark = v === wanted ? "wanted" : v === first ? "wrong" : "";
        return `<span class="${mark}">${escapeText(layout.vocabulary[v])}</span>
            <span class="bar ${v === first ? "first" : ""}"><i style="left:0;width:${share.toFixed(1)}%"></i></span>
            <span class="${mark}">${short(step.logits[v])}</span>`;
    });
    const name = escapeText(layout.vocabulary[first]);
    const verdict = first === wanted ? `<span class="yes">right</span>`
        : `<span class="no">wrong, it is ${escapeText(layout.vocabulary[wanted])}</span>`;
    find("logits").innerHTML = `<p>Writes <strong>${name}</strong>, ${verdict}; margin
        <strong>${short(step.margin)}</strong> logits.</p><div class="bars">${rows.join("")}</div>`;
}

function drawEvery() {
    const rows = shown.steps.map((step, i) => {
        const cells = step.weights.map((own, h) => own.slice(0, layout.positions).map((weight, p) =>
            weight < 0.004 ? "" : `<rect class="look" x="${p}" y="${h}" width="1" height="1"
                opacity="${weight.toFixed(3)}"/>`).join("")).join("");
        const heads = step.weights.length;
        const good = step.token === step.wanted;
        return `<tr class="${i === chosen ? "chosen" : ""}"><td><button data-step="${i}">${subscript(i)}</button></td>
            <td class="${good ? "yes" : "no"}">${escapeText(layout.vocabulary[step.token])}${good ? "" : " ✗"}</td>
            <td class="n">${short(step.margin)}</td>
            <td style="width:70%"><svg class="strip" viewBox="0 0 ${layout.positions} ${heads}"
                preserveAspectRatio="none" role="img" aria-label="where step ${i} looks">
                <rect class="ground" width="${layout.positions}" height="${heads}"/>${cells}</svg></td></tr>`;
    });
    find("every").innerHTML = `<table class="every"><thead><tr><th>step</th><th>writes</th>
        <th class="n">margin</th><th>where it looks, first position to last</th></tr></thead>
        <tbody>${rows.join("")}</tbody></table>`;
}

// Parameters.

function applyParameters() {
    engine.setParameters(current.map((values, t) => scale[t] === 1 ? values : values.map((v) => v * scale[t])));
}

function parametersMoved() {
    applyParameters();
    computePair();
    startCount();
}

// A slider and a field for one number around its `home`; `get` and `set` are of the number.
function slider(label, home, reach, get, set) {
    const box = document.createElement("div");
    const name = escapeText(label);
    box.className = "slider";
    box.innerHTML = `<label>${name}</label><input type="range" min="-500" max="500" value="0"
        aria-label="${name}"><input type="number" step="any" aria-label="${name}, as a number">
        <button title="back to ${home}" aria-label="${name}: back">↺</button>`;
    const [range, field, back] = box.querySelectorAll("input, button");
    const move = (value) => { set(value); refresh(); parametersMoved(); };
    function refresh() {
        const value = get();
        range.value = Math.round(500 * (value - home) / reach);
        if (document.activeElement !== field) field.value = +value.toPrecision(6);
        box.classList.toggle("moved", value !== home);
    }
    range.oninput = () => move(home + reach * range.value / 500);
    field.onchange = () => { if (field.value !== "" && Number.isFinite(+field.value)) move(+field.value); };
    back.onclick = () => move(home);
    refresh();
    return { box, refresh };
}

const sliders = [];

function indexText(shape, flat) {
    const at = [];
    for (let d = shape.length - 1; d >= 0; d--) { at.unshift(flat % shape[d]); flat = Math.floor(flat / shape[d]); }
    return at.length ? `[${at.join(", ")}]` : "";
}

function reachOf(values, k) {
    const largest = values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    return Math.max(2 * Math.abs(values[k]), largest, 0.05);
}

function numberSlider(t, k) {
    const { name, shape } = MODEL.parameters[t], home = original[t][k];
    return slider(name + indexText(shape, k), home, reachOf(original[t], k),
        () => current[t][k], (value) => { current[t][k] = value; });
}

function buildSliders() {
    const count = original.reduce((sum, values) => sum + values.length, 0);
    MODEL.parameters.forEach(({ name, shape }, t) => {
        if (count <= EACH_ALONE) {
            for (let k = 0; k < original[t].length; k++) {
                const own = numberSlider(t, k), box = panel();
                sliders.push(own);
                box.append(own.box);
            }
            return;
        }
        const box = panel();
        const whole = slider(`${name} (${shape.join(" × ") || "1"}), times`, 1, 1,
            () => scale[t], (value) => { scale[t] = value; });
        sliders.push(whole);
        box.append(whole.box);
        const one = document.createElement("div");
        one.className = "one";
        const most = original[t].length - 1;
        one.innerHTML = `<label class="which">one number: <input type="number" min="0" max="${most}" value="0"
            aria-label="${escapeText(name)}: which number"> of ${most + 1}</label><div></div>`;
        const pick = one.querySelector("input"), place = one.querySelector("div");
        const holder = { refresh: () => {} };
        const show = () => {
            const own = numberSlider(t, Math.max(0, Math.min(most, Math.floor(+pick.value) || 0)));
            place.replaceChildren(own.box);
            holder.refresh = own.refresh;
        };
        pick.oninput = show;
        show();
        sliders.push({ refresh: () => holder.refresh() });
        box.append(one);
    });
}

function panel() {
    const box = document.createElement("div");
    box.className = "panel";
    find("sliders").append(box);
    return box;
}

function resetParameters() {
    original.forEach((values, t) => { current[t] = values.slice(); scale[t] = 1; });
    sliders.forEach((own) => own.refresh());
    parametersMoved();
}

// The live count.

let counting = 0, failing = [], worst = null;

function startCount() {
    const own = ++counting, groups = MODEL.sample.groups.map(({ name }) => ({ name, right: 0, n: 0 }));
    let next = 0, right = 0, least = null;
    failing = [];
    function slice() {
        if (own !== counting) return;
        const until = performance.now() + SLICE_MS;
        while (next < samples.length && performance.now() < until) {
            const sample = samples[next++], low = engine.smallest(sample.a, sample.b, false);
            const good = low > 0, group = groups[sample.group];
            group.n++;
            if (good) { right++; group.right++; } else failing.push(sample);
            if (least === null || !(low >= least.low)) least = { low, sample };
        }
        worst = least.sample;
        drawCount(right, next, groups);
        if (next < samples.length) setTimeout(slice);
    }
    setTimeout(slice);
}

function drawCount(right, done, groups) {
    const over = done === samples.length;
    const live = find("live-count");
    live.textContent = `${thousands(right)} of ${thousands(done)}`;
    live.className = right === done ? "yes" : "no";
    live.dataset.done = over;
    find("live-note").textContent = over ? "sampled pairs right" : `right, of ${thousands(samples.length)} to count`;
    find("failing").disabled = failing.length === 0 && MODEL.pairs.failing.length === 0;
    const rows = groups.slice().sort((x, y) => x.right / (x.n || 1) - y.right / (y.n || 1));
    find("groups").innerHTML = rows.map(({ name, right, n }) => `<li><span>${escapeText(name)}</span>
        <span class="${right < n ? "bad" : ""}">${right} of ${n}</span></li>`).join("");
}

// Controls.

function randomDigits() {
    return Array.from({ length: J }, () => Math.floor(Math.random() * layout.base));
}

function longCarry() {  // a column that makes a carry, then columns that pass it on
    const start = Math.floor(Math.random() * 3), a = randomDigits();
    const b = a.map((digit, j) => j < start ? 0 : layout.base - 1 - digit);
    if (a[start] === 0) a[start] = 1;
    b[start] = layout.base - a[start];
    return [a, b];
}

function wireControls() {
    find("a").oninput = find("b").oninput = readInputs;
    find("worst").onclick = () => MODEL.pairs.worst
        ? showPair(...MODEL.pairs.worst.map((text) => engine.digits(text)), true)
        : worst && showPair(worst.a, worst.b, true);
    find("carry").onclick = () => showPair(...longCarry());
    find("random").onclick = () => showPair(randomDigits(), randomDigits());
    let turn = 0;
    find("failing").onclick = () => {
        const known = [...failing.map(({ a, b }) => [a, b]),
            ...MODEL.pairs.failing.map((own) => own.map((text) => engine.digits(text)))];
        if (known.length) showPair(...known[turn++ % known.length]);
    };
    find("reset").onclick = resetParameters;
    const byStep = (event) => {
        const button = event.target.closest("[data-step]");
        if (button) choose(+button.dataset.step);
    };
    find("written").onclick = byStep;
    find("every").onclick = (event) => {
        byStep(event);
        const again = find("every").querySelector(`[data-step="${chosen}"]`);
        if (event.target.closest("[data-step]")) again.focus();
    };
    find("written").onkeydown = (event) => {
        const move = { ArrowLeft: 1, ArrowRight: -1, Home: 99, End: -99 }[event.key];
        if (move) { event.preventDefault(); choose(chosen + move); }
    };
}

// Snapshots of its training: the parameters that everything starts from.

const FRAME_MS = 400;

function snapshotWeights() {  // of every snapshot, tensor by tensor
    const bytes = Uint8Array.from(atob(MODEL.film.weights), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    let next = 0;
    return MODEL.film.steps.map(() => MODEL.parameters.map(({ values }) =>
        values.map(() => view.getFloat32(4 * next++, true))));
}

function startFrom(values, note) {
    values.forEach((own, t) => { original[t] = own; current[t] = own.slice(); scale[t] = 1; });
    sliders.length = 0;
    find("sliders").replaceChildren();
    buildSliders();
    applyParameters();
    readout = fitReadout();
    computePair();
    startCount();
    find("time-note").textContent = note;
}

function wireTraining() {
    const home = MODEL.parameters.map(({ values }) => values), frames = snapshotWeights();
    const time = find("time"), steps = MODEL.film.steps;
    const checkpoint = "The checkpoint that the page is about.";
    const show = () => startFrom(frames[+time.value], `After step ${thousands(steps[+time.value])}.`);
    time.max = steps.length - 1;
    time.value = time.max;
    const stop = player(time, find("play"), show, FRAME_MS);
    find("checkpoint").onclick = () => { stop(); startFrom(home, checkpoint); };
    find("time-note").textContent = checkpoint;
}

applyParameters();
readout = fitReadout();
buildSliders();
wireControls();
if (MODEL.film) wireTraining();
showPair(...pair, true);
startCount();
