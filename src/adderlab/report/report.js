// What a report's figures do under a pointer, and the seed that the reader chooses. The values are read off
// the drawings themselves: a curve's points are in its path, and the plot says what its pixels mean.

"use strict";

const tip = document.createElement("div");
tip.className = "tip";
tip.setAttribute("role", "status");
document.body.append(tip);

// Points of a path that was written as M x y L x y ..., in the drawing's own pixels.
function pointsOf(path) {
    if (!path.points) {
        path.points = Array.from(path.getAttribute("d").matchAll(/[ML]([-\d.]+) ([-\d.]+)/g),
            ([, x, y]) => [+x, +y]);
    }
    return path.points;
}

// What a plot's pixel means: its axes are in data-plot, as { x, y, box: [left, top, right, bottom], log }.
function valueAt(plot, [px, py]) {
    const [left, top, right, bottom] = plot.box, across = (px - left) / (right - left);
    const up = (bottom - py) / (bottom - top), [low, high] = plot.log ? plot.y.map(Math.log10) : plot.y;
    const y = low + up * (high - low);
    return [plot.x[0] + across * (plot.x[1] - plot.x[0]), plot.log ? 10 ** y : y];
}

function shown(plot, y) {
    return plot.percent ? `${(100 * y).toFixed(1)}%` : `${+y.toPrecision(3)}`;
}

function nearest(svg, x, y) {
    let found = null;
    for (const path of svg.querySelectorAll("path[data-name]")) {
        for (const point of pointsOf(path)) {
            // Along the curve a miss counts less than across it: the pointer is between evaluations.
            const far = Math.hypot((point[0] - x) * 0.5, point[1] - y);
            if (!found || far < found.far) found = { far, point, name: path.dataset.name };
        }
    }
    return found && found.far < 40 ? found : null;
}

function hover(event) {
    const svg = event.currentTarget, plot = JSON.parse(svg.dataset.plot);
    const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
    const found = nearest(svg, (event.clientX - box.left) * scale, (event.clientY - box.top) * scale);
    svg.querySelector(".mark")?.remove();
    if (!found) { tip.style.display = "none"; return; }
    const [x, y] = valueAt(plot, found.point);
    const mark = document.createElementNS(svg.namespaceURI, "circle");
    mark.setAttribute("class", "mark");
    mark.setAttribute("cx", found.point[0]);
    mark.setAttribute("cy", found.point[1]);
    mark.setAttribute("r", 4);
    svg.append(mark);
    tip.textContent = `${found.name}, step ${Math.round(x).toLocaleString("en-US")}: ${shown(plot, y)}`;
    tip.style.display = "block";
    const width = tip.offsetWidth, room = document.documentElement.clientWidth;
    tip.style.left = `${Math.max(4, Math.min(room - width - 8, event.clientX + 12))}px`;
    tip.style.top = `${event.clientY + 16}px`;
}

function leave(event) {
    event.currentTarget.querySelector(".mark")?.remove();
    tip.style.display = "none";
}

for (const svg of document.querySelectorAll("svg[data-plot]")) {
    svg.addEventListener("pointermove", hover);
    svg.addEventListener("pointerleave", leave);
}

// The chosen seed: its curves stand out, and its own drawing is shown.
for (const choice of document.querySelectorAll("select[data-seeds]")) {
    const part = choice.closest("[data-run]");
    const choose = () => {
        for (const path of part.querySelectorAll("path[data-seed]")) {
            path.classList.toggle("chosen", path.dataset.seed === choice.value);
        }
        for (const own of part.querySelectorAll("[data-inside]")) {
            own.hidden = own.dataset.inside !== choice.value;
        }
    };
    choice.addEventListener("change", choose);
    choose();
}

// The film of a seed: a slider over its snapshots. A letter is a weight (LEVELS in seeds.py).

const LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
const FRAME_MS = 160;

// All cells of a drawing of one head, in the place of those of its one frame; shown(letters) fills them.
function grid(svg, names, [wide, high]) {
    const frame = svg.querySelector(".frame"), left = +frame.getAttribute("x"), top = +frame.getAttribute("y");
    svg.querySelectorAll(".cell").forEach((each) => each.remove());
    const own = [];
    return (letters) => {
        for (let k = 0; k < letters.length; k++) {
            const column = k % names.length, row = Math.floor(k / names.length);
            const weight = LEVELS.indexOf(letters[k]) / 63;
            if (!own[k]) {
                own[k] = document.createElementNS(svg.namespaceURI, "rect");
                const place = { class: "cell", x: left + column * wide, y: top + row * high, width: wide, height: high };
                for (const [name, value] of Object.entries(place)) own[k].setAttribute(name, value);
                own[k].append(document.createElementNS(svg.namespaceURI, "title"));
                svg.append(own[k]);
            }
            own[k].setAttribute("fill-opacity", weight.toFixed(3));
            own[k].firstChild.textContent =
                `s_${row} reads ${names[column] || column}: ${Math.round(100 * weight)}% of its attention`;
        }
    };
}

for (const part of document.querySelectorAll("[data-film]")) {
    const film = JSON.parse(part.dataset.film), slider = part.querySelector("input");
    const table = part.querySelector("table");
    const heads = [...part.querySelectorAll("svg")].map((svg) => grid(svg, film.names, film.cell));
    const show = () => {
        const at = +slider.value;
        heads.forEach((fill, head) => fill(film.looks[at][head]));
        part.querySelector(".at").textContent = film.texts[at];
        [film.right, film.smallest].forEach((values, row) => values[at].forEach((text, i) => {
            table.rows[row + 1].cells[i + 1].textContent = text;
        }));
    };
    player(slider, part.querySelector("button"), show, FRAME_MS);
    show();
}
