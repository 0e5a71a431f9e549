/* Replays a recorded decoding of a passage, and decodes it from its mem vector in the reader's browser. Plain script,
   since modules do not load from file://; the model's graph, its vocabulary and the runtime, as scripts too, are read
   only once there are weights. */
"use strict";
(() => {
  const here = new URL(".", document.currentScript.src);
  const { model, passages } = window.CRAMMED;
  const find = (name) => document.getElementById(`decode-${name}`);
  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const floats = (base64) => new Float32Array(bytes(base64).buffer);
  const norm = (x) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const pause = () => new Promise((done) => setTimeout(done, 0));

  /* ---- what the reader does to a vector ---- */

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

  /* Turned by so many degrees towards noise; the norm stays. As cramming.studies.bits.turned. */
  function turned(mem, degrees, seed) {
    const draw = normal(seed), long = norm(mem), unit = Float64Array.from(mem, (value) => value / long);
    const noise = Float64Array.from(unit, draw), along = dot(noise, unit);
    const across = noise.map((value, i) => value - along * unit[i]), wide = norm(across);
    const [cosine, sine] = [Math.cos(degrees * Math.PI / 180), Math.sin(degrees * Math.PI / 180)];
    return Float32Array.from(unit, (value, i) => long * (cosine * value + sine * across[i] / wide));
  }

  function bfloat16(x) {
    const number = new Float32Array([x]), bits = new Uint32Array(number.buffer);
    bits[0] = (bits[0] + 0x7fff + ((bits[0] >>> 16) & 1)) & 0xffff0000;
    return number[0];
  }

  /* Rounded to 2 ** bits values with one scale, the best of a few. As cramming.rounding.quantise. */
  function rounded(mem, bits) {
    const half = 2 ** (bits - 1), widest = mem.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / (half - 0.5);
    let best = mem, least = Infinity;
    for (let i = 0; i < 31; i++) {
      const scale = bfloat16((1 - i / 32) * widest);
      const values = mem.map((x) => (Math.max(-half, Math.min(half - 1, Math.floor(x / scale))) + 0.5) * scale);
      const error = values.reduce((sum, value, j) => sum + (value - mem[j]) ** 2, 0);
      if (error < least) [best, least] = [values, error];
    }
    return best;
  }

  /* The first half of one vector, the second half of another. */
  const swapped = (mem, other) => mem.map((value, i) => (i < mem.length / 2 ? value : other[i]));

  function changed(passage, how) {
    let mem = floats(passage.mem);
    if (how.other) mem = swapped(mem, floats(how.other.mem));
    if (how.degrees > 0) mem = turned(mem, how.degrees, how.seed);
    return how.bits ? rounded(mem, how.bits) : mem;
  }

  function degreesBetween(x, y) {
    const cosine = dot(Float64Array.from(x), y) / (norm(x) * norm(y));
    return Math.acos(Math.min(1, cosine)) * 180 / Math.PI;
  }

  /* ---- the model ---- */

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

  async function runtime() {
    await script("runtime.js");
    const { module, wasm } = window.CRAMMING_RUNTIME;
    const ort = await import(URL.createObjectURL(new Blob([bytes(module)], { type: "text/javascript" })));
    const unpacked = new Blob([bytes(wasm)]).stream().pipeThrough(new DecompressionStream("gzip"));
    ort.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
    return ort;
  }

  let ort, session, stop = false, busy = false;

  /* A tensor that is unpacked only when the runtime copies it, so that there is never more than one of them twice. */
  class Packed extends Uint8Array {
    #size;
    #unpack;
    constructor(size, unpack) {
      super(0);
      [this.#size, this.#unpack] = [size, unpack];
    }
    get byteLength() {
      return this.#size;
    }
    subarray() {
      return this.#unpack();
    }
  }

  /* Float32 of each float16, by its bits. */
  const halves = () => Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, power, part] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    return sign * (power ? (power < 31 ? 2 ** (power - 15) * (1 + part / 1024) : part ? NaN : Infinity) : 2 ** -24 * part);
  });

  /* The tensors of a file as cramming export writes it. A matrix comes as cramming.book.export.from_grid computes it: its
     products are exact in float32, their sums with least are exact here, and are rounded once, where they are put. */
  function unpacking(file, table) {
    const half = halves(), most = table.reduce((most, row) => (row[3] < 0 ? most : Math.max(most, row[1])), 0);
    const room = new Float32Array(most / 4);
    function unpacked(size, codes, scale, least) {
      const numbers = size / 4, halved = (at) => new Uint16Array(file.slice(at, at + numbers / 16).buffer);
      const wide = halved(scale), low = least < 0 ? null : halved(least), signed = new Int8Array(file.buffer, file.byteOffset);
      for (let block = 0, to = 0; block < wide.length; block++, to += 32) {
        const by = half[wide[block]];
        if (!low) for (let i = 0; i < 32; i++) room[to + i] = signed[codes + to + i] * by;
        else {
          const base = half[low[block]];
          for (let i = 0; i < 16; i++) {
            const pair = file[codes + to / 2 + i];
            room[to + i] = (pair & 15) * by + base;
            room[to + 16 + i] = (pair >> 4) * by + base;
          }
        }
      }
      return new Uint8Array(room.buffer, 0, size);
    }
    return table.map(([path, size, codes, scale, least]) => {
      const data = scale < 0 ? file.subarray(codes, codes + size) : new Packed(size, () => unpacked(size, codes, scale, least));
      return { path, data };
    });
  }

  /* SHA-256 in hexadecimal; undefined where the browser has none, which is so without a secure connection. */
  async function digest(data) {
    if (!window.crypto?.subtle) return undefined;
    const found = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }
  const whole = async (data, { bytes: size, sha256 }) => data.length === size && ((await digest(data)) ?? sha256) === sha256;

  async function open(weights) {
    if (!(await whole(weights, model)))
      throw new Error(`this file does not hold ${model.name} ${model.digest} as this book has it: write it with cramming export`);
    say("Unpacking the weights. The page stands still meanwhile.");
    await pause();
    await script("graph.js");
    await script("vocabulary.js");
    ort ??= await runtime();
    await session?.release();
    session = undefined;
    const { graph, tensors } = window.CRAMMING_GRAPH;
    const externalData = unpacking(weights, tensors);
    session = await ort.InferenceSession.create(bytes(graph), { executionProviders: ["wasm"], externalData });
    const sure = window.crypto?.subtle ? "" : ", unchecked, since this connection is not a secure one";
    say(`The weights are here${sure}. Press Decode.`);
  }

  /* Logits of the next token, one step at a time: mem first, then each token that was said. */
  function reader(mem) {
    const tensor = (kind, data, shape) => new ort.Tensor(kind, data, shape), [layers, heads, , wide] = model.past;
    const none = tensor("float32", new Float32Array(0), [0, model.width]);
    let past = tensor("float32", new Float32Array(0), [layers, heads, 0, wide]);
    return async (id) => {
      const first = id === undefined;
      const feeds = {
        mem: first ? tensor("float32", mem, [1, model.width]) : none,
        ids: tensor("int64", BigInt64Array.from(first ? [] : [BigInt(id)]), [first ? 0 : 1]),
        past,
      };
      const { logits, present } = await session.run(feeds);
      past = present;
      return logits.data;
    };
  }

  /* ---- what the reader sees ---- */

  const printable = [...Array(256).keys()].filter((b) => (b > 32 && b < 127) || (b > 160 && b !== 173));
  const byteOf = new Map(printable.map((b) => [String.fromCharCode(b), b]));
  [...Array(256).keys()].filter((b) => !printable.includes(b)).forEach((b, i) => byteOf.set(String.fromCharCode(256 + i), b));
  function text(id) {
    const piece = window.CRAMMING_VOCABULARY[id] ?? "";
    return new TextDecoder().decode(Uint8Array.from([...piece], (letter) => byteOf.get(letter) ?? 63));
  }

  const say = (line) => (find("status").textContent = line);
  const shown = (line) => line.replaceAll("\n", "↵\n");

  function chip(id, truth, gap) {
    const right = id === truth, tag = document.createElement("span");
    tag.className = right ? "right" : "wrong";
    tag.textContent = shown(text(id));
    const by = `by ${Math.abs(gap).toFixed(3)} logits`;
    tag.title = right ? `won ${by}` : `expected: ${JSON.stringify(text(truth))}, which lost ${by}`;
    return tag;
  }

  /* The decoding that the package recorded, of the stored vector or of a rounded one that breaks. */
  function replay() {
    const passage = passages[find("passage").value], { said, tokens, won } = passage.recorded[find("recorded").value];
    const truth = passage.recorded[0].tokens, [all, text] = window.crammingReplay.spans(tokens);
    const right = said.map((id, i) => id === passage.ids[i]), logits = (gap) => `${gap.toFixed(3)} logits`;
    all.forEach((tag, i) => (tag.title = `won by ${logits(won[i])}${right[i] ? "" : `, expected: ${JSON.stringify(truth[i])}`}`));
    function paint(at) {
      all.forEach((tag, i) => (tag.className = i >= at ? "unseen" : right[i] ? "right" : "wrong"));
      if (!at) return `Only the vector, and ${said.length} tokens to say.`;
      const token = `Token ${at} of ${said.length}, ${JSON.stringify(tokens[at - 1])}, won by ${logits(won[at - 1])}`;
      const wrong = right[at - 1] ? "" : ` over the next, in place of ${JSON.stringify(truth[at - 1])}`;
      const least = Math.min(...won.slice(0, at)), count = right.slice(0, at).filter(Boolean).length;
      return `${token}${wrong}. ${count} of ${at} right, the closest win ${logits(least)}.`;
    }
    const label = `Recorded decoding of ${passage.passage}`;
    find("replay").replaceChildren(
      window.crammingReplay.player({ label, word: "Token", last: said.length, seconds: 12, text, paint })
    );
  }

  function chosen() {
    const { recorded } = passages[find("passage").value];
    const names = recorded.map(({ bits }) => (bits ? `rounded to ${bits} bits a number` : "as stored"));
    find("recorded").replaceChildren(...names.map((name, i) => new Option(name, i)));
    find("truth").textContent = recorded[0].tokens.join("");
    replay();
    refresh();
  }

  const settings = () => ({
    degrees: Number(find("angle").value),
    seed: Number(find("seed").value) || 0,
    bits: Number(find("bits").value) > 8 ? 0 : Number(find("bits").value),
    other: passages[find("swap").value],
  });

  function refresh() {
    const passage = passages[find("passage").value], how = settings();
    find("angle-value").textContent = `${how.degrees}°`;
    find("bits-value").textContent = how.bits ? `rounded to ${how.bits} bits a number` : "float32, as stored";
    find("facts").textContent =
      `${passage.length} tokens of ${passage.passage}, run ${passage.key.slice(0, 12)}, recipe ${passage.recipe}. ` +
      `One vector of ${model.width} numbers. The certificate says: exact, margin ${passage.margin.toFixed(3)} logits.`;
    const away = degreesBetween(floats(passage.mem), changed(passage, how));
    find("away").textContent = away < 0.005 ? "The vector is the stored one." : `The vector is ${away.toFixed(2)}° from the stored one.`;
  }

  async function decode() {
    const passage = passages[find("passage").value], out = find("out"), bar = find("progress");
    const next = reader(changed(passage, settings())), began = performance.now();
    let right = 0, first = null, margin = Infinity, said, done = 0;
    stop = false;
    out.replaceChildren();
    bar.max = passage.length;
    bar.value = 0;
    find("stop").disabled = false;
    say(`Decoding ${passage.length} tokens.`);
    for (const truth of passage.ids) {
      const logits = await next(said);
      let best = 0, other = -Infinity;
      for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
      for (let i = 0; i < logits.length; i++) if (i !== truth && logits[i] > other) other = logits[i];
      if (first === null) margin = Math.min(margin, logits[truth] - other);
      said = best;
      done += 1;
      out.append(chip(said, truth, logits[truth] - other));
      if (said === truth) right += 1;
      else if (first === null) {
        first = done;
        say(`The text breaks at token ${first} of ${passage.length}.`);
      }
      bar.value = done;
      await pause();
      if (stop) break;
    }
    const each = Math.round((performance.now() - began) / done);
    const counted = `${right} of ${done} tokens right${done < passage.length ? `, stopped before ${passage.length}` : ""}`;
    const verdict = first === null ? (done === passage.length ? "Exact" : "No error so far") : `First error at token ${first}`;
    const gap = first === null ? `smallest gap ${margin.toFixed(3)} logits, certificate ${passage.margin.toFixed(3)}` : `there the true token lost by ${(-margin).toFixed(3)} logits`;
    say(`${verdict}: ${counted}; ${gap}; ${each} ms a token.`);
    out.dataset.right = right;
    out.dataset.done = done;
  }

  /* One thing at a time; whatever goes wrong is said on the page, in one line. */
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
    find("run").disabled = !session;
    if (session) find("run").focus();
    find("stop").disabled = true;
  };

  /* ---- where the weights come from ---- */

  const taken = async (file) => {
    if (file) await open(new Uint8Array(file.size === model.bytes ? await file.arrayBuffer() : 0));
  };

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
    await open(weights);
  }

  /* From a folder a browser fetches nothing. */
  async function offer() {
    const size = `${Math.round(model.bytes / 1e6)} MB`;
    find("fetch").textContent = `Fetch the weights, ${size}`;
    find("fetch").hidden = false;
    const store = await kept(), had = await Promise.all(model.parts.map((one) => store?.match(address(one))));
    if (had.every(Boolean)) find("fetch").textContent = `Take the weights kept in this browser, ${size}`;
  }

  passages.forEach((passage, i) => {
    const label = `${passage.passage}, ${passage.length} tokens`;
    find("passage").append(new Option(label, i));
    find("swap").append(new Option(label, i));
  });
  for (const name of ["angle", "seed", "bits", "swap"]) find(name).addEventListener("input", refresh);
  find("passage").addEventListener("input", chosen);
  find("recorded").addEventListener("input", replay);
  find("file").addEventListener("change", guarded((event) => taken(event.target.files[0])));
  const zone = find("widget");
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", guarded((event) => (event.preventDefault(), taken(event.dataTransfer.files[0]))));
  find("run").addEventListener("click", guarded(decode));
  find("stop").addEventListener("click", () => (stop = true));
  find("reset").addEventListener("click", () => {
    find("angle").value = 0;
    find("bits").value = 9;
    find("swap").value = "";
    refresh();
  });
  find("fetch").addEventListener("click", guarded(fetched));
  if (model.parts && location.protocol.startsWith("http")) offer();
  zone.hidden = false;
  chosen();
})();
