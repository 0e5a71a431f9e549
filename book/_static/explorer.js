// Makes each .cramming-explorer clickable: the numbers are in it as JSON, written by cramming/explorer.py. A classic
// script that asks for nothing, so that it also works on a page opened from a folder. Without it the tables remain.
(function () {
  "use strict";

  const BLANK = "·";
  const LEVELS = 7;
  const BITS = [0.5, 1, 2, 4, 8, 16]; // edges of the classes of colour, one scale for every passage
  const VIEWS = [
    ["without", "surprisal without mem"],
    ["with", "surprisal with mem"],
    ["right", "right or wrong"],
    ["step", "step at which solved"],
  ];
  let made = 0;

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const classOf = (value, edges) => edges.filter((edge) => value >= edge).length;
  const stepEdges = (passage) => BITS.map((_, i) => Math.max(1, Math.round((passage.steps * (i + 1)) / LEVELS)));
  const legible = (token) => token.replaceAll(" ", BLANK).replaceAll("\n", "⏎") || "(part of a character)";
  const bits = (value, how) => (value === null ? `not predicted ${how} mem` : `${value} bits ${how} mem`);
  const sum = (values) => Math.round(values.reduce((total, value) => total + value, 0) * 10) / 10;

  // The vector that a prefix is looked at with: its own where it was kept, else that of the next longer one.
  function stageOf(passage, length) {
    return passage.stages.find((stage) => stage.crammed >= length) || passage.stages.at(-1);
  }

  function levelOf(passage, stage, view, i) {
    if (view === "right") return { 0: LEVELS - 1, 1: 0 }[stage.right[i]] ?? null;
    const value = { without: passage.without, with: stage.with, step: passage.step }[view][i];
    return value === null ? null : classOf(value, view === "step" ? stepEdges(passage) : BITS);
  }

  function told(passage, stage, i) {
    const step = passage.step[i];
    const parts = [
      bits(passage.without[i], "without"),
      bits(stage.with[i], "with"),
      { 0: "wrong with this vector", 1: "right with this vector" }[stage.right[i]] ?? "given",
    ];
    if (step !== null) parts.push(`with all before it by step ${step} of ${passage.steps}`);
    else if (passage.step.some((other) => other !== null)) parts.push("never reached");
    return parts.join("; ");
  }

  function legendOf(passage, stage, view) {
    if (view === "right") return [[0, "right"], [LEVELS - 1, "wrong (wavy line)"]];
    const edges = view === "step" ? stepEdges(passage) : BITS;
    const unit = view === "step" ? "steps" : "bits";
    const items = edges.map((edge, i) => [i, i ? `${edges[i - 1]} to ${edge}` : `below ${edge}`]);
    const lacking = { without: passage.without, with: stage.with, step: passage.step }[view].includes(null);
    const none = lacking ? [[null, view === "step" ? "never reached" : "not predicted"]] : [];
    return [...items, [LEVELS - 1, `${edges.at(-1)} ${unit} and more`], ...none];
  }

  function statusOf(passage, stage, length) {
    const step = passage.step[length - 1];
    const when = step === null || step === undefined ? "" : `, right by step ${step} of ${passage.steps}`;
    const own = stage.crammed === length;
    const counted = [...Array(length).keys()].filter((i) => passage.without[i] !== null && stage.with[i] !== null);
    const flags = [...stage.right.slice(0, length)];
    const right = flags.filter((flag) => flag === "1").length;
    const scored = flags.filter((flag) => "01".includes(flag)).length;
    const gain = counted.length
      ? ` From the second one on: ${sum(counted.map((i) => passage.without[i]))} bits without mem, ` +
        `${sum(counted.map((i) => stage.with[i]))} with.`
      : "";
    const which = own
      ? `Measured with the vector for exactly ${length} ${length === 1 ? "token" : "tokens"}${when}.`
      : `The first ${length} tokens${when}. Measured with the vector for ${stage.crammed}: none was kept for fewer.`;
    return `${which} ${right} of ${scored} right.${gain}`;
  }

  function upgrade(root) {
    const source = root.querySelector('script[type="application/json"]');
    if (!source || root.querySelector(".explorer-live")) return;
    const { passages } = JSON.parse(source.textContent);
    const id = `explorer-${(made += 1)}`;
    const tables = [...root.querySelectorAll("details")];

    const select = element("select", { id: `${id}-passage` });
    passages.forEach((passage, i) => select.append(element("option", { value: i }, passage.passage)));
    const slider = element("input", { type: "range", id: `${id}-length`, min: 1, step: 1 });
    const count = element("output", { for: `${id}-length` });
    const choices = element("fieldset", {}, element("legend", {}, "Colour by"));
    for (const [view, label] of VIEWS) {
      if (view === "step" && passages.every((passage) => passage.step.every((step) => step === null))) continue;
      const radio = element("input", { type: "radio", name: `${id}-view`, value: view });
      radio.checked = view === "with";
      choices.append(element("label", {}, radio, label));
    }
    const status = element("p", { class: "explorer-status" });
    const list = element("div", { class: "explorer-tokens", role: "listbox", "aria-orientation": "horizontal" });
    const legend = element("ul", { class: "explorer-legend", "aria-label": "Legend" });
    const panel = element("p", { class: "explorer-panel", "aria-live": "polite" });
    const live = element(
      "div",
      { class: "explorer-live", role: "group", "aria-label": "Explorer of crammed passages" },
      element(
        "div",
        { class: "explorer-controls" },
        element("div", {}, element("label", { for: select.id }, "Passage"), select),
        element("div", {}, element("label", { for: slider.id }, "Crammed prefix"), slider, count)
      ),
      choices,
      status,
      list,
      legend,
      panel
    );
    root.insertBefore(live, tables[0] || null);
    tables.forEach((table) => (table.open = false));

    let passage, options, chosen;

    const view = () => choices.querySelector("input:checked").value;
    const stage = () => stageOf(passage, Number(slider.value));

    function show(i) {
      panel.replaceChildren(
        element("b", {}, `Token ${i + 1}, `, element("code", {}, legible(passage.tokens[i]))),
        `: ${told(passage, stage(), i)}.`
      );
    }

    function choose(i, focus) {
      options[chosen].tabIndex = -1;
      options[chosen].setAttribute("aria-selected", "false");
      chosen = Math.min(Math.max(i, 0), options.length - 1);
      options[chosen].tabIndex = 0;
      options[chosen].setAttribute("aria-selected", "true");
      if (focus) options[chosen].focus();
      show(chosen);
    }

    function paint() {
      const length = Number(slider.value);
      const current = stage();
      const kind = view();
      options.forEach((option, i) => {
        const level = levelOf(passage, current, kind, i);
        if (level === null) delete option.dataset.level;
        else option.dataset.level = level;
        option.classList.toggle("crammed", i < length);
        option.classList.toggle("last", i === length - 1);
        option.classList.toggle("wrong", kind === "right" && current.right[i] === "0");
        option.title = told(passage, current, i);
      });
      count.textContent = `${length} of ${slider.max} tokens`;
      slider.setAttribute("aria-valuetext", `${length} of ${slider.max} tokens`);
      status.textContent = statusOf(passage, current, length);
      legend.replaceChildren(
        ...legendOf(passage, current, kind).map(([level, text]) =>
          element(
            "li",
            {},
            element("span", { "aria-hidden": "true", ...(level === null ? {} : { "data-level": level }) }),
            text
          )
        )
      );
      show(chosen);
    }

    function open() {
      passage = passages[Number(select.value)];
      list.setAttribute("aria-label", `Tokens of ${passage.passage}; arrow keys move between them`);
      list.replaceChildren();
      options = passage.tokens.map((token, i) => {
        const option = element(
          "span",
          { role: "option", tabindex: -1, "aria-selected": "false", "aria-label": `${i + 1}: ${legible(token)}` },
          token.replaceAll("\n", "⏎") || BLANK
        );
        option.addEventListener("mouseenter", () => show(i));
        option.addEventListener("mouseleave", () => show(chosen));
        option.addEventListener("focus", () => i !== chosen && choose(i));
        option.addEventListener("click", () => choose(i, true));
        list.append(option);
        if (token.includes("\n")) list.append(element("br"));
        return option;
      });
      slider.max = Math.min(passage.stages.at(-1).crammed, passage.tokens.length);
      slider.value = slider.max;
      chosen = 0;
      choose(0);
      paint();
    }

    // The token nearest to this one in the line above or below.
    function beside(direction) {
      const here = options[chosen];
      const lines = options.filter((option) => Math.sign(option.offsetTop - here.offsetTop) === direction);
      if (!lines.length) return chosen;
      const top = (direction > 0 ? lines[0] : lines.at(-1)).offsetTop;
      const distance = (option) => Math.abs(option.offsetLeft - here.offsetLeft);
      const line = lines.filter((option) => option.offsetTop === top);
      return options.indexOf(line.reduce((best, option) => (distance(option) < distance(best) ? option : best)));
    }

    const MOVES = {
      ArrowRight: () => chosen + 1,
      ArrowLeft: () => chosen - 1,
      ArrowDown: () => beside(1),
      ArrowUp: () => beside(-1),
      Home: () => 0,
      End: () => options.length - 1,
    };
    list.addEventListener("keydown", (event) => {
      if (!(event.key in MOVES) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      choose(MOVES[event.key](), true);
    });
    select.addEventListener("change", open);
    slider.addEventListener("input", paint);
    choices.addEventListener("change", paint);
    // On paper nothing can be clicked: the table of the passage chosen stands below it.
    const opened = [];
    window.addEventListener("beforeprint", () => {
      const table = tables[Number(select.value)];
      if (!table || table.open) return;
      table.open = true;
      opened.push(table);
    });
    window.addEventListener("afterprint", () => opened.splice(0).forEach((table) => (table.open = false)));
    open();
  }

  document.querySelectorAll(".cramming-explorer").forEach(upgrade);
})();
