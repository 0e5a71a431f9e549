/* Crams a sentence of the reader's own into a vector, here. The search itself is in worker.js, so that the page stays alive. */
"use strict";
(() => {
  const { model, recipe, least, most, took } = window.CRAMMING;
  const { pause, shown, normal, degreesBetween, script, tokenizer, widget } = window.crammingModel;
  const LONGEST = 1000; // characters that are looked at: more than any text of so few tokens has
  const { find, say, guarded } = widget("cram", model, { open, ready });
  let worker, opened = false, paused = false;
  const found = []; // vectors of this visit: text, ids, seed, mem

  /* ---- the worker ---- */

  const waiting = {}, heard = {};
  function call(name, given = {}, transfer = []) {
    return new Promise((done, failed) => {
      Object.assign(waiting, { done, failed });
      worker.postMessage({ name, ...given }, transfer);
    });
  }

  function started() {
    const made = new Worker(URL.createObjectURL(new Blob([window.CRAMMING_WORKER], { type: "text/javascript" })));
    made.onmessage = ({ data: { name, ...given } }) => {
      if (heard[name]) heard[name](given);
      else if (name === "failed") waiting.failed(new Error(given.message));
      else waiting.done(given);
    };
    made.onerror = ({ message }) => waiting.failed(new Error(`the search broke off (${message || "no reason given"}): reload the page`));
    return made;
  }

  async function open(weights) {
    say("Unpacking the weights.");
    for (const name of ["gradient.js", "worker.js", "runtime.js"]) await script(name);
    await tokenizer();
    opened = paused = false;
    worker?.terminate();
    worker = started();
    const threads = window.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
    const graph = window.CRAMMING_GRADIENT, runtime = window.CRAMMING_RUNTIME;
    await call("open", { runtime, graph, weights, threads }, [weights.buffer]);
    opened = true;
  }

  /* ---- the sentence ---- */

  /* Its tokens, and what is wrong with it, if anything. */
  async function read() {
    const text = find("text").value.trim(), length = [...text].length, bounds = `${least} to ${most}`;
    if (!text) return { fault: `Write a sentence of ${bounds} tokens.` };
    if (length > LONGEST) return { fault: `This has ${length.toLocaleString("en")} characters, and a sentence of ${bounds} tokens fits: shorten it.` };
    const ids = (await tokenizer()).ids(text), tokens = `${ids.length} token${ids.length === 1 ? "" : "s"}`;
    if (ids.length < least) return { fault: `${tokens}: write a little more, ${least} at least.` };
    if (ids.length > most) return { fault: `${tokens}: take ${ids.length - most} off, ${most} at most.` };
    return { text, ids, fault: "", tokens };
  }

  async function counted() {
    const { fault, tokens } = await read();
    find("count").textContent = fault || `${tokens}.`;
    find("text").setAttribute("aria-invalid", String(Boolean(fault)));
  }

  /* ---- the search ---- */

  const seconds = (ms) => (ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`);

  function estimate(n, ms) {
    const range = took ? [took.least, took.median, took.most] : [0, recipe.max_steps / 2, recipe.max_steps];
    const [low, middle, high] = range.map((steps) => (steps * ms * n) / (took?.length ?? n));
    const known = took ? `${took.n} runs of ${took.length} tokens took ${took.least} to ${took.most} steps` : "nothing is known of other runs";
    return `A step takes ${seconds(ms)}. ${known}; here that would be ${seconds(low)} to ${seconds(high)}, most likely about ${seconds(middle)}.`;
  }

  /* Two curves against steps: tokens right, of all, and the loss, of its highest value. */
  function drawn(trace, n) {
    const across = Math.max(20, trace.length), top = Math.max(...trace.map(({ loss }) => loss));
    const line = (of) => trace.map((seen, i) => `${((i / across) * 600).toFixed(1)},${(115 - 110 * of(seen)).toFixed(1)}`).join(" ");
    find("right").setAttribute("points", line(({ right }) => right.filter(Boolean).length / n));
    find("loss").setAttribute("points", line(({ loss }) => loss / top));
  }

  let under; // the search under way: text, ids, seed, the page's pieces, and its trace

  function begun(text, ids, seed, pieces) {
    const tags = pieces.map((piece) => {
      const tag = document.createElement("span");
      tag.className = "wrong";
      tag.textContent = shown(piece);
      return tag;
    });
    under = { text, ids, seed, tags, trace: [] };
    find("out").replaceChildren(...tags);
    find("out").hidden = find("curves").hidden = find("now").hidden = false;
    find("back").hidden = find("keep").hidden = find("pair").hidden = true;
    find("progress").max = ids.length;
  }

  heard.step = (seen) => {
    const { tags, trace, ids } = under, count = seen.right.filter(Boolean).length;
    trace.push(seen);
    tags.forEach((tag, i) => (tag.className = seen.right[i] ? "right" : "wrong"));
    find("progress").value = count;
    find("now").textContent = `Step ${seen.steps}: ${count} of ${ids.length} tokens right, loss ${seen.loss.toFixed(3)} nats a token.`;
    drawn(trace, ids.length);
    if (trace.length === 2) say(estimate(ids.length, seen.ms));
  };

  async function searched(name, given) {
    find("hold").disabled = false;
    find("hold").textContent = "Pause";
    paused = false;
    const { ended, steps, best, mem } = await call(name, given);
    if (!ended) {
      paused = true;
      return say(`Paused after ${steps} steps. Go on, or begin anew from another seed.`);
    }
    const { ids, trace } = under, time = seconds(trace.reduce((sum, { ms }) => sum + ms, 0));
    if (ended !== "solved") return say(`Given up after ${steps} steps, ${time}: ${best} of ${ids.length} tokens right. Try another seed.`);
    find("hold").disabled = true;
    say(`All ${ids.length} tokens right after ${steps} steps, ${time}. Now the model says them, from the vector alone.`);
    await saidBack(mem, steps, time);
  }

  async function saidBack(mem, steps, time) {
    const { text, ids, seed } = under, reader = await tokenizer();
    find("said").textContent = "";
    find("back").hidden = false;
    heard.said = ({ said }) => (find("said").textContent = shown(reader.text(said)));
    const { said } = await call("decode", { mem, n: ids.length });
    const right = said.filter((id, i) => id === ids[i]).length, exact = right === ids.length;
    if (!exact) return say(`Right token by token, but said back only ${right} of ${ids.length}: try another seed.`);
    say(`Exact: ${ids.length} of ${ids.length} tokens said back from one vector of ${model.width} numbers, found in ${steps} steps, ${time}.`);
    found.push({ text, ids, seed, mem });
    kept();
    compared();
  }

  /* ---- what is left of it ---- */

  /* The vector as a file of safetensors, with what cramming check has to know. */
  function file({ mem, ids, text, seed }) {
    const about = { model: model.name, model_digest: model.digest, recipe: recipe.name, seed: String(seed), text, token_ids: JSON.stringify(ids) };
    const header = { __metadata__: about, mem: { dtype: "F32", shape: [1, mem.length], data_offsets: [0, 4 * mem.length] } };
    let head = new TextEncoder().encode(JSON.stringify(header));
    head = new TextEncoder().encode(JSON.stringify(header) + " ".repeat((8 - (head.length % 8)) % 8));
    const size = new DataView(new ArrayBuffer(8));
    size.setBigUint64(0, BigInt(head.length), true);
    return new Blob([size.buffer, head, mem.buffer]);
  }

  function kept() {
    URL.revokeObjectURL(find("keep").href);
    find("keep").href = URL.createObjectURL(file(found.at(-1)));
    find("keep").hidden = false;
  }

  /* The last vector beside an earlier one of the same text from another seed. */
  function compared() {
    const now = found.at(-1), other = found.findLast(({ text, seed }) => text === now.text && seed !== now.seed);
    find("pair").hidden = false;
    find("pair").textContent = other
      ? `Seeds ${other.seed} and ${now.seed} gave two vectors of one text, ${degreesBetween(other.mem, now.mem).toFixed(1)}° apart. Two random directions are 90° apart, give or take ${((180 / Math.PI) / Math.sqrt(model.width)).toFixed(1)}°.`
      : "Cram it again from another seed: will the vector be the same one?";
  }

  /* ---- what the reader does ---- */

  function ready() {
    find("run").disabled = !opened;
    find("hold").disabled = !paused;
    find("hold").textContent = paused ? "Go on" : "Pause";
    find("text").disabled = find("seed").disabled = false;
  }

  async function cram() {
    const { text, ids, fault } = await read();
    if (fault) {
      find("text").focus();
      return say(fault);
    }
    const seed = Number(find("seed").value) || 0, reader = await tokenizer(), draw = normal(seed);
    find("text").disabled = find("seed").disabled = true;
    begun(text, ids, seed, ids.map((id) => reader.text([id])));
    say("Two steps, to see how long one takes.");
    await pause();
    await searched("cram", { recipe, ids, noise: Float32Array.from({ length: model.width }, draw) });
  }

  const goOn = guarded(async () => {
    find("text").disabled = find("seed").disabled = true;
    say("Going on.");
    await searched("go");
  });

  find("text").addEventListener("input", counted);
  find("text").addEventListener("focus", counted, { once: true });
  find("run").addEventListener("click", guarded(cram));
  find("hold").addEventListener("click", () => (paused ? goOn() : worker.postMessage({ name: "hold" })));
  find("anew").addEventListener("click", () => (find("seed").value = (Number(find("seed").value) || 0) + 1));
  find("widget").hidden = false;
})();
