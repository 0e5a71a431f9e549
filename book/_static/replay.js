// Plays each .cramming-replay: a passage appears token by token as its vector is trained. The numbers are in the page as
// JSON, written by cramming/book/replay.py; nothing is asked for, so that it works on a page opened from a folder.
(() => {
  "use strict";
  const SECONDS = 14; // of the whole run
  let made = 0;

  function element(tag, attributes, ...children) {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) one.setAttribute(name, value);
    one.append(...children);
    return one;
  }

  function upgrade(root) {
    const source = root.querySelector('script[type="application/json"]');
    if (!source || root.querySelector(".replay-live")) return;
    const run = JSON.parse(source.textContent);
    const id = `replay-${(made += 1)}`;
    const spans = run.tokens.map((token) => element("span", {}, token.replaceAll("\n", "⏎") || "·"));
    const text = element("div", { class: "replay-tokens", "aria-hidden": "true" }, ...spans);
    const slider = element("input", { type: "range", id, min: 0, max: run.steps, step: 1, value: run.steps });
    const button = element("button", { type: "button" });
    const status = element("p", { class: "replay-status" });
    const controls = element("div", { class: "replay-controls" }, button, element("label", { for: id }, "Step"), slider);
    root.insertBefore(
      element("div", { class: "replay-live", role: "group", "aria-label": `Replay of ${run.passage}` }, controls, text, status),
      root.querySelector("p")
    );
    root.querySelector(":scope > p").hidden = true;
    root.querySelector("details").open = false;

    let playing = 0; // the frame asked for, 0 while nothing moves
    const underAt = (step) => run.under.reduce((last, [from, length]) => (from <= step ? length : last), 0);

    function paint() {
      const step = Number(slider.value);
      const under = underAt(step);
      const right = run.at.filter((at) => at <= step).length;
      spans.forEach((span, i) => (span.className = run.at[i] <= step ? "right" : i < under ? "under" : "unseen"));
      const said = `Step ${step} of ${run.steps}: ${right} of ${run.tokens.length} tokens right, ${under} under optimisation.`;
      status.textContent = said;
      slider.setAttribute("aria-valuetext", said);
    }

    function pause() {
      cancelAnimationFrame(playing);
      playing = 0;
      button.textContent = "Play";
    }

    function play() {
      if (Number(slider.value) >= run.steps) slider.value = 0;
      const first = Number(slider.value);
      let begun = null;
      const frame = (now) => {
        begun ??= now;
        slider.value = Math.min(run.steps, Math.floor(first + ((now - begun) / 1000 / SECONDS) * run.steps));
        paint();
        if (Number(slider.value) < run.steps) playing = requestAnimationFrame(frame);
        else pause();
      };
      button.textContent = "Pause";
      playing = requestAnimationFrame(frame);
    }

    button.addEventListener("click", () => (playing ? pause() : play()));
    slider.addEventListener("input", () => {
      pause();
      paint();
    });
    pause();
    paint();
    // It moves by itself once, when it comes into sight, unless the reader prefers that nothing does.
    if (matchMedia("(prefers-reduced-motion: no-preference)").matches && "IntersectionObserver" in window) {
      const seen = new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        seen.disconnect();
        play();
      }, { threshold: 0.6 });
      seen.observe(root);
    }
  }

  document.querySelectorAll(".cramming-replay").forEach(upgrade);
})();
