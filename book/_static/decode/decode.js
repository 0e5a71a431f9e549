/* Decodes a passage from its mem vector in the reader's browser. Plain script, since modules do not load from file://;
   the runtime and the vocabulary, as scripts too, are read only once there are weights. */
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

  async function open(weights) {
    /* The name of the weights stands at the end of the file. */
    if (!new TextDecoder("latin1").decode(weights.slice(-4096)).includes(model.digest))
      throw new Error(`this file does not hold ${model.name} ${model.digest}: write it with cramming export`);
    say("Unpacking the weights. The page stands still meanwhile.");
    await pause();
    await script("vocabulary.js");
    ort ??= await runtime();
    await session?.release();
    session = await ort.InferenceSession.create(weights, { executionProviders: ["wasm"] });
    say("The weights are here. Press Decode.");
    find("run").disabled = false;
    find("run").focus();
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

  function chip(id, truth) {
    const right = id === truth, tag = document.createElement("span");
    tag.className = right ? "right" : "wrong";
    tag.textContent = shown(text(id));
    if (!right) tag.title = `expected: ${JSON.stringify(text(truth))}`;
    return tag;
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
    [busy, stop] = [true, false];
    out.replaceChildren();
    bar.max = passage.length;
    bar.value = 0;
    find("run").disabled = true;
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
      out.append(chip(said, truth));
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
    busy = false;
    find("run").disabled = false;
    find("stop").disabled = true;
  }

  /* Whatever goes wrong is said on the page, in one line. */
  const guarded = (action) => async (event) => {
    try {
      await action(event);
    } catch (error) {
      busy = false;
      find("run").disabled = !session;
      find("stop").disabled = true;
      say(`That did not work: ${error.message ?? error}`);
    }
  };

  async function fetched() {
    const answer = await fetch(new URL("model.onnx", here));
    if (!answer.ok) throw new Error(`the weights are not beside this page any more (${answer.status})`);
    const parts = [], source = answer.body.getReader(), bar = find("progress");
    bar.max = model.bytes;
    for (let got = 0, step = await source.read(); !step.done; step = await source.read()) {
      parts.push(step.value);
      bar.value = got += step.value.length;
    }
    bar.value = 0;
    await open(new Uint8Array(await new Blob(parts).arrayBuffer()));
  }

  const taken = async (file) => file && open(new Uint8Array(await file.arrayBuffer()));

  passages.forEach((passage, i) => {
    const label = `${passage.passage}, ${passage.length} tokens`;
    find("passage").append(new Option(label, i));
    find("swap").append(new Option(label, i));
  });
  for (const name of ["passage", "angle", "seed", "bits", "swap"]) find(name).addEventListener("input", refresh);
  find("file").addEventListener("change", guarded((event) => taken(event.target.files[0])));
  const zone = find("widget");
  zone.addEventListener("dragover", (event) => event.preventDefault());
  zone.addEventListener("drop", guarded((event) => (event.preventDefault(), taken(event.dataTransfer.files[0]))));
  find("run").addEventListener("click", guarded(async () => busy || (await decode())));
  find("stop").addEventListener("click", () => (stop = true));
  find("reset").addEventListener("click", () => {
    find("angle").value = 0;
    find("bits").value = 9;
    find("swap").value = "";
    refresh();
  });
  if (model.bytes && location.protocol.startsWith("http")) {
    find("fetch").textContent = `Fetch ${Math.round(model.bytes / 1e6)} MB`;
    find("fetch").hidden = false;
    find("fetch").addEventListener("click", guarded(fetched));
  }
  refresh();
  zone.hidden = false;
})();
