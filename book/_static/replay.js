// Plays each .cramming-replay: a passage appears token by token as its vector is trained. The numbers are in the page as
// JSON, written by cramming/book/replay.py; nothing is asked for, so that it works on a page opened from a folder.
// The player is also that of the page which replays a decoding, see browser/decode.js.
(() => {
  "use strict";
  let made = 0;

  function element(tag, attributes, ...children) {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) one.setAttribute(name, value);
    one.append(...children);
    return one;
  }

  // A button, a slider from 0 to last, the text, and a line about it. paint(at) shows the text as it is there, and returns
  // the line. At first all is at its end; it moves by itself once, when it comes into sight, unless the reader prefers
  // that nothing does.
  function player({ label, word, last, seconds, text, paint }) {
    const id = `replay-${(made += 1)}`;
    const slider = element("input", { type: "range", id, min: 0, max: last, step: 1, value: last });
    const button = element("button", { type: "button" });
    const status = element("p", { class: "replay-status" });
    const controls = element("div", { class: "replay-controls" }, button, element("label", { for: id }, word), slider);
    const live = element("div", { class: "replay-live", role: "group", "aria-label": label }, controls, text, status);
    let playing = 0; // the frame asked for, 0 while nothing moves

    function show() {
      const said = paint(Number(slider.value));
      status.textContent = said;
      slider.setAttribute("aria-valuetext", said);
    }

    function pause() {
      cancelAnimationFrame(playing);
      playing = 0;
      button.textContent = "Play";
    }

    function play() {
      if (Number(slider.value) >= last) slider.value = 0;
      const first = Number(slider.value);
      let begun = null;
      const frame = (now) => {
        begun ??= now;
        slider.value = Math.min(last, Math.floor(first + ((now - begun) / 1000 / seconds) * last));
        show();
        if (Number(slider.value) < last && live.isConnected) playing = requestAnimationFrame(frame);
        else pause();
      };
      button.textContent = "Pause";
      playing = requestAnimationFrame(frame);
    }

    button.addEventListener("click", () => (playing ? pause() : play()));
    slider.addEventListener("input", () => {
      pause();
      show();
    });
    pause();
    show();
    if (matchMedia("(prefers-reduced-motion: no-preference)").matches && "IntersectionObserver" in window) {
      const seen = new IntersectionObserver((entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        seen.disconnect();
        if (!playing) play();
      }, { threshold: 0.6 });
      seen.observe(live);
    }
    return live;
  }

  // Tokens as they are shown, each in an element of its own.
  function spans(tokens) {
    const all = tokens.map((token) => element("span", {}, token.replaceAll("\n", "⏎") || "·"));
    return [all, element("div", { class: "replay-tokens", "aria-hidden": "true" }, ...all)];
  }

  function upgrade(root) {
    const source = root.querySelector('script[type="application/json"]');
    if (!source || root.querySelector(".replay-live")) return;
    const run = JSON.parse(source.textContent);
    const [tokens, text] = spans(run.tokens);
    const underAt = (step) => run.under.reduce((last, [from, length]) => (from <= step ? length : last), 0);

    function paint(step) {
      const under = underAt(step);
      const right = run.at.filter((at) => at <= step).length;
      tokens.forEach((span, i) => (span.className = run.at[i] <= step ? "right" : i < under ? "under" : "unseen"));
      return `Step ${step} of ${run.steps}: ${right} of ${run.tokens.length} tokens right, ${under} under optimisation.`;
    }

    const label = `Replay of ${run.passage}`;
    root.insertBefore(player({ label, word: "Step", last: run.steps, seconds: 14, text, paint }), root.querySelector("p"));
    root.querySelector(":scope > p").hidden = true;
    root.querySelector("details").open = false;
  }

  window.crammingReplay = { player, spans };
  document.querySelectorAll(".cramming-replay").forEach(upgrade);
})();
