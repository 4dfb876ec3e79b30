// One button plays a slider from where it is to its end; both films have it (report.js, explore.js).

// show() draws the slider's frame; a frame lasts frameMs. Returns what stops the film.
function player(slider, button, show, frameMs) {
    let turning = null;
    const stop = () => { clearInterval(turning); turning = null; button.textContent = "play"; };
    slider.addEventListener("input", () => { stop(); show(); });
    button.addEventListener("click", () => {
        if (turning) { stop(); return; }
        if (+slider.value === +slider.max) slider.value = 0;
        button.textContent = "stop";
        show();
        turning = setInterval(() => {
            slider.value = +slider.value + 1;
            show();
            if (+slider.value === +slider.max) stop();
        }, frameMs);
    });
    return stop;
}
