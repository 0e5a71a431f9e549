/* What the pages share that compute in the reader's browser: where weights come from, what a token reads as, and vectors.
   Plain script, since modules do not load from file://; whatever is large is a script too, read only once it is needed. */
"use strict";
window.crammingModel = (() => {
  const here = new URL(".", document.currentScript.src);
  const norm = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const pause = () => new Promise((done) => setTimeout(done, 0));
  const shown = (line) => line.replaceAll("\n", "↵\n");

  /* Normal numbers, the same ones for the same seed. */
  function normal(seed) {
    let state = (seed ^ 0x9e3779b9) >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let t = Math.imul(state ^ (state >>> 15), state | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
    };
    return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  }

  function degreesBetween(x, y) {
    const cosine = dot(Float64Array.from(x), y) / (norm(x) * norm(y));
    return (Math.acos(Math.max(-1, Math.min(1, cosine))) * 180) / Math.PI;
  }

  const loaded = {};
  function script(name) {
    return (loaded[name] ??= new Promise((done, failed) => {
      const tag = document.createElement("script");
      tag.src = new URL(name, here);
      tag.onload = done;
      tag.onerror = () => failed(new Error(`${name} is missing beside this page`));
      document.head.append(tag);
    }));
  }

  /* The model's own tokenizer: text(ids) and ids(text). */
  let reading;
  async function tokenizer() {
    await script("tokenizer.js");
    const { module, json } = window.CRAMMING_TOKENIZER;
    const source = new Blob([crammingSession.bytes(module)], { type: "text/javascript" });
    reading ??= import(URL.createObjectURL(source)).then(({ Tokenizer }) => new Tokenizer(json, {}));
    const found = await reading;
    return {
      text: (ids) => found.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }),
      ids: (text) => Array.from(found.encode(text, { add_special_tokens: false }).ids, Number),
    };
  }

  /* SHA-256 in hexadecimal; undefined where the browser has none, which is so without a secure connection. */
  async function digest(data) {
    if (!window.crypto?.subtle) return undefined;
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  const whole = async (data, { bytes, sha256 }) => data.length === bytes && ((await digest(data)) ?? sha256) === sha256;

  const KEPT = "cramming-weights", address = ({ name }) => new URL(`weights/${name}`, here).href;
  /* What this browser keeps of an earlier visit; nothing where it keeps nothing. */
  const kept = async () => (window.caches ? caches.open(KEPT).catch(() => undefined) : undefined);

  /* One part of the weights into its place, from the browser's store or from beside this page. */
  async function part(one, place, store, got) {
    const had = await store?.match(address(one));
    if (had) {
      const found = new Uint8Array(await had.arrayBuffer());
      if (await whole(found, one)) return place.set(found), got(one.bytes);
      await store.delete(address(one));
    }
    const answer = await fetch(address(one), { cache: "no-cache" }).catch(() => ({ status: "no answer" }));
    if (!answer.ok) throw new Error(`part ${one.name} of the weights is missing (${answer.status}): choose a file instead`);
    const source = answer.body.getReader();
    const more = () => source.read().catch(() => ({ done: true })); // cut off: too short, see below
    let at = 0, step = await more();
    for (; !step.done && at + step.value.length <= one.bytes; step = await more()) {
      place.set(step.value, at);
      at += step.value.length;
      got(at);
    }
    source.cancel().catch(() => undefined);
    if (!step.done || at < one.bytes || !(await whole(place, one)))
      throw new Error(`part ${one.name} of the weights came damaged: try again, or choose a file`);
    await store?.put(address(one), new Response(place)).catch(() => undefined); // it may be full
  }

  /* The controls of a page that needs the weights, with ids that begin with its name. Weights come from a file, chosen or
     dropped, or, where the book is served, by a click from beside the page; open(weights) is told when they are there.

     Gives find, say, and guarded: one thing at a time; whatever goes wrong is said on the page, in one line. */
  function widget(name, model, { open, ready }) {
    const find = (part) => document.getElementById(`${name}-${part}`);
    const say = (line) => (find("status").textContent = line);
    let busy = false;

    const guarded = (action) => async (event) => {
      if (busy) return;
      const held = ["file", "fetch", "run"].map(find);
      busy = true;
      held.forEach((control) => (control.disabled = true));
      try {
        await action(event);
      } catch (error) {
        say(`That did not work: ${error.message ?? error}`);
      }
      busy = false;
      held.forEach((control) => (control.disabled = false));
      ready();
    };

    async function opened(weights) {
      if (!(await whole(weights, model)))
        throw new Error(`this file does not hold ${model.name} ${model.digest} as this book has it: write it with cramming export`);
      await open(weights);
      const sure = window.crypto?.subtle ? "" : ", unchecked, since this connection is not a secure one";
      say(`The weights are here${sure}. Press ${find("run").textContent}.`);
    }

    const taken = async (file) => {
      if (file) await opened(new Uint8Array(file.size === model.bytes ? await file.arrayBuffer() : 0));
    };

    async function fetched() {
      const weights = new Uint8Array(model.bytes), store = await kept(), bar = find("progress");
      say("Fetching the weights.");
      bar.max = model.bytes;
      let at = 0;
      for (const one of model.parts) {
        await part(one, weights.subarray(at, at + one.bytes), store, (got) => (bar.value = at + got));
        at += one.bytes;
      }
      const mine = model.parts.map(address);
      for (const { url } of (await store?.keys()) ?? []) if (!mine.includes(url)) await store.delete(url);
      bar.value = 0;
      await opened(weights);
    }

    /* From a folder a browser fetches nothing. */
    async function offer() {
      const size = `${Math.round(model.bytes / 1e6)} MB`;
      find("fetch").textContent = `Fetch the weights, ${size}`;
      find("fetch").hidden = false;
      const store = await kept(), had = await Promise.all(model.parts.map((one) => store?.match(address(one))));
      if (had.every(Boolean)) find("fetch").textContent = `Take the weights kept in this browser, ${size}`;
    }

    find("file").addEventListener("change", guarded((event) => taken(event.target.files[0])));
    find("widget").addEventListener("dragover", (event) => event.preventDefault());
    find("widget").addEventListener("drop", guarded((event) => (event.preventDefault(), taken(event.dataTransfer.files[0]))));
    find("fetch").addEventListener("click", guarded(fetched));
    if (model.parts && location.protocol.startsWith("http")) offer();
    return { find, say, guarded };
  }

  return { norm, dot, pause, shown, normal, degreesBetween, script, tokenizer, widget };
})();
