/* From weights to a session of ONNX Runtime. For a page and, put before its own script, for a worker. */
"use strict";
globalThis.crammingSession = (() => {
  const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

  async function runtime({ module, wasm }, threads) {
    const ort = await import(URL.createObjectURL(new Blob([bytes(module)], { type: "text/javascript" })));
    const unpacked = new Blob([bytes(wasm)]).stream().pipeThrough(new DecompressionStream("gzip"));
    ort.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    return ort;
  }

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

  /* The tensors of a file as cramming export writes it. A matrix comes as cramming.book.graph.from_grid computes it: its
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

  /* A session of a graph as cramming.book.export.taken_apart gives it, with the weights of the file it was taken from. */
  function open(ort, { graph, tensors }, weights) {
    const externalData = unpacking(weights, tensors);
    return ort.InferenceSession.create(bytes(graph), { executionProviders: ["wasm"], externalData });
  }

  return { bytes, runtime, open };
})();
