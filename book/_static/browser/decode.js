/* Replays a recorded decoding of a passage, and decodes it from its mem vector in the reader's browser. */
"use strict";
(() => {
  const { model, passages } = window.CRAMMED;
  const { norm, dot, pause, shown, normal, degreesBetween, script, tokenizer, widget } = window.crammingModel;
  const floats = (base64) => new Float32Array(crammingSession.bytes(base64).buffer);
  const { find, say, guarded } = widget("decode", model, {
    open,
    ready: () => {
      find("run").disabled = !session;
      if (session) find("run").focus();
      find("stop").disabled = true;
    },
  });

  /* ---- what the reader does to a vector ---- */

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

  /* ---- the model ---- */

  let ort, session, tokens, stop = false;

  async function open(weights) {
    say("Unpacking the weights. The page stands still meanwhile.");
    await pause();
    await script("graph.js");
    await script("runtime.js");
    tokens = await tokenizer();
    ort ??= await crammingSession.runtime(window.CRAMMING_RUNTIME, 1);
    await session?.release();
    session = undefined;
    session = await crammingSession.open(ort, window.CRAMMING_GRAPH, weights);
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

  function chip(id, truth, gap) {
    const right = id === truth, tag = document.createElement("span");
    tag.className = right ? "right" : "wrong";
    tag.textContent = shown(tokens.text([id]));
    const by = `by ${Math.abs(gap).toFixed(3)} logits`;
    tag.title = right ? `won ${by}` : `expected: ${JSON.stringify(tokens.text([truth]))}, which lost ${by}`;
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

  passages.forEach((passage, i) => {
    const label = `${passage.passage}, ${passage.length} tokens`;
    find("passage").append(new Option(label, i));
    find("swap").append(new Option(label, i));
  });
  for (const name of ["angle", "seed", "bits", "swap"]) find(name).addEventListener("input", refresh);
  find("passage").addEventListener("input", chosen);
  find("recorded").addEventListener("input", replay);
  find("run").addEventListener("click", guarded(decode));
  find("stop").addEventListener("click", () => (stop = true));
  find("reset").addEventListener("click", () => {
    find("angle").value = 0;
    find("bits").value = 9;
    find("swap").value = "";
    refresh();
  });
  find("widget").hidden = false;
  chosen();
})();
