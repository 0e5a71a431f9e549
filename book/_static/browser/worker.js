/* The search for a vector, step by step as cramming.engine takes it, in a worker, so that the page stays alive. The recipe
   comes from the package. Messages in: open, cram, hold, go, decode. Messages out carry the same names, or failed. */
"use strict";
(() => {
  /* The fields of a recipe that this search follows, and what it takes for granted of the others. */
  const GRANTED = {
    memory: "vectors", parametrisation: "sphere", bits: null, warmup_steps: 0, weight_decay: 0, clip_norm: null,
    score_first: true, restart_steps: null, max_token_passes: null, patience: null, keep: "measured", init: "normal",
  };

  function onto(x) {
    const size = Math.sqrt(x.length) / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
    return x.map((value) => value * size);
  }

  function along(x, direction) {
    const share = x.reduce((sum, value, i) => sum + value * direction[i], 0) / direction.reduce((sum, value) => sum + value * value, 0);
    return x.map((value, i) => value - share * direction[i]);
  }

  const mix = (x, y, share) => x.map((value, i) => value + share * (y[i] - value));

  /* One passage under way; one vector. */
  class Run {
    constructor(recipe, ids, noise) {
      for (const [field, value] of Object.entries(GRANTED))
        if (recipe[field] !== value) throw new Error(`recipe ${recipe.name} has ${field} ${recipe[field]}, this page knows ${value} only`);
      this.recipe = recipe;
      this.ids = ids;
      this.param = this.iterate = this.average = onto(Float64Array.from(noise));
      this.moment1 = this.moment2 = new Float64Array(noise.length);
      this.weight = new Float64Array(ids.length).fill(1);
      this.length = recipe.growth ? Math.min(recipe.growth.start, ids.length) : ids.length;
      this.steps = this.best = 0;
      this.mem = this.seen();
      this.ended = "";
    }

    /* What the model sees. */
    seen() {
      return Float32Array.from(this.param, (value) => value * this.recipe.radius);
    }

    rate() {
      const { lr, lr_min, schedule, full_rate_length, max_steps } = this.recipe;
      if (schedule === "constant") return lr;
      if (schedule === "by_length") return lr * Math.sqrt(Math.min(1, full_rate_length / this.length));
      return lr_min + (lr - lr_min) * 0.5 * (1 + Math.cos(Math.PI * Math.min(1, this.steps / max_steps)));
    }

    /* One step: score says nats, gaps and the gradient, of mem, the tokens, their weights and the temperature. */
    async step(score) {
      const mem = this.seen(), ids = this.ids.slice(0, this.length), weights = this.weight.slice(0, this.length);
      const total = weights.reduce((sum, value) => sum + value, 0);
      const shares = Float32Array.from(weights, (value) => value / total);
      const { nats, gaps, gradient } = await score(mem, ids, shares, this.recipe.temperature);
      this.steps += 1;
      this.#move(gradient);
      this.#take(mem, nats, gaps);
      const loss = nats.reduce((sum, value) => sum + value, 0) / nats.length;
      return { steps: this.steps, loss, right: Array.from(gaps, (gap) => gap > 0), best: this.best };
    }

    #move(found) {
      const { betas: [beta1, beta2], eps, averaging } = this.recipe, lr = this.rate(), t = this.steps;
      const gradient = along(Float64Array.from(found), this.param);
      this.moment2 = this.moment2.map((value, i) => beta2 * value + (1 - beta2) * gradient[i] ** 2);
      const scale = this.moment2.map((value) => Math.sqrt(value / (1 - beta2 ** t)) + eps);
      if (averaging) {
        this.iterate = onto(this.iterate.map((value, i) => value - (lr * gradient[i]) / scale[i]));
        this.average = mix(this.average, this.iterate, Math.max(averaging, 1 / t));
        this.param = onto(mix(this.iterate, this.average, beta1));
      } else {
        this.moment1 = this.moment1.map((value, i) => beta1 * value + (1 - beta1) * gradient[i]);
        this.param = onto(this.param.map((value, i) => value - (lr * this.moment1[i]) / (1 - beta1 ** t) / scale[i]));
      }
    }

    #take(mem, nats, gaps) {
      const { stop_margin, growth, focus, focus_max, max_steps } = this.recipe;
      const won = Array.from(gaps, (gap) => gap > stop_margin), solved = won.every(Boolean);
      const prefix = won.includes(false) ? won.indexOf(false) : won.length;
      const count = growth ? prefix : gaps.filter((gap) => gap > 0).length;
      won.forEach((is, i) => {
        const weight = this.weight[i] * (is ? 1 / focus : focus);
        this.weight[i] = Math.min(focus_max, Math.max(1, weight));
      });
      if (count > this.best || (solved && count === this.best)) [this.best, this.mem] = [count, mem];
      if (solved && this.length === this.ids.length) this.ended = "solved";
      else if (this.steps >= max_steps) this.ended = "budget";
      else if (growth) {
        const ahead = Math.max(growth.block, Math.floor(growth.fraction * this.best));
        this.length = Math.min(this.ids.length, Math.max(this.length, this.best + ahead));
      }
    }
  }
  globalThis.crammingRun = Run; // for the tests

  let session, ort, run, held = false;
  const pause = () => new Promise((done) => setTimeout(done, 0));

  async function ask(wanted, mem, ids, weights, temperature) {
    const tensor = (kind, data, shape) => new ort.Tensor(kind, data, shape);
    const feeds = {
      mem: tensor("float32", mem, [1, mem.length]),
      ids: tensor("int64", BigInt64Array.from(ids, BigInt), [ids.length]),
      weights: tensor("float32", weights, [ids.length]),
      temperature: tensor("float32", Float32Array.of(temperature), []),
    };
    const found = await session.run(feeds, wanted);
    return Object.fromEntries(wanted.map((name) => [name, found[name].data]));
  }

  const score = (...given) => ask(["nats", "gaps", "gradient"], ...given);

  const actions = {
    async open({ runtime, graph, weights, threads }) {
      ort ??= await crammingSession.runtime(runtime, threads);
      await session?.release();
      session = undefined;
      session = await crammingSession.open(ort, graph, weights);
    },

    /* A search from noise. After each step the page is told; hold and go are heard between two of them. */
    async cram({ recipe, ids, noise }) {
      run = new Run(recipe, ids, noise);
      return actions.go();
    },

    async go() {
      held = false;
      while (!run.ended && !held) {
        const began = performance.now(), seen = await run.step(score);
        postMessage({ name: "step", ...seen, ms: performance.now() - began });
        await pause();
      }
      return { ended: run.ended, steps: run.steps, best: run.best, mem: run.mem };
    },

    /* What the model says, given a vector and nothing but what it said itself. */
    async decode({ mem, n }) {
      const said = [];
      while (said.length < n) {
        // The likeliest token at each place depends on those before it alone: what stands at the last one is not read.
        const ids = [...said, 0], { likeliest } = await ask(["likeliest"], mem, ids, new Float32Array(ids.length), 1);
        said.push(Number(likeliest[said.length]));
        postMessage({ name: "said", said });
        await pause();
      }
      return { said };
    },
  };

  globalThis.onmessage = async ({ data: { name, ...given } }) => {
    if (name === "hold") return (held = true);
    try {
      postMessage({ name, ...(await actions[name](given)) });
    } catch (error) {
      postMessage({ name: "failed", message: String(error.message ?? error) });
    }
  };
})();
