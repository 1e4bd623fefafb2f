// Runs .tflite files in turns in one WebAssembly runtime and sends back times and outputs.
// The server side is server.py; what the job and the result hold is described in bench.py.

const WARM_UP_RUNS = 3;
// The clock of a page ticks every 0.1 ms: a turn has to be long beside that.
const SHORTEST_TURN_MS = 20;
const MS_PER_SIGN_OF_LIFE = 200;

const ARRAYS = {
  float32: Float32Array, int8: Int8Array, uint8: Uint8Array, bool: Uint8Array, int16: Int16Array,
  int32: Int32Array, uint32: Uint32Array, float64: Float64Array,
};

async function bytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function send(path, body) {
  await fetch(path, {method: "POST", body});
}

// Each runtime: `start` loads it; `load` gives a model with `run` (once, waiting for the result)
// and `outputs` (of the last run: a key, which is a tensor's index or name, and the values).

const RUNTIMES = {
  "@tensorflow/tfjs-tflite": {
    async start() {
      await new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = "/packages/@tensorflow/tfjs-tflite/wasm/tflite_web_api_client.js";
        script.onload = resolve;
        script.onerror = () => reject(new Error("its client could not be loaded"));
        document.head.append(script);
      });
      const web = window.tfweb ?? exports.tfweb;
      web.tflite_web_api.setWasmPath("/packages/@tensorflow/tfjs-tflite/wasm/");
      const features = await web.tflite_web_api.getWasmFeatures();
      this.runner = web.TFLiteWebModelRunner;
      return {simd: features.simd};
    },
    async load(content, inputs) {
      const model = await this.runner.create(content.buffer, {numThreads: 1});
      const ports = model.getInputs();
      const fill = () => ports.forEach((port, i) => {
        const place = port.data();
        const Kind = place.constructor;
        place.set(new Kind(inputs[i].content.buffer));
      });
      return {
        run() {
          fill();
          if (!model.infer()) throw new Error("the runtime fails to run it");
        },
        outputs() {
          return model.getOutputs().map((port) => [port.id, port.data().slice()]);
        },
      };
    },
  },
  "@litertjs/core": {
    async start() {
      this.library = await import("/packages/@litertjs/core/dist/index.js");
      await this.library.loadLiteRt("/packages/@litertjs/core/wasm/");
      return {simd: true};
    },
    async load(content, inputs) {
      const {loadAndCompile, Tensor} = this.library;
      const model = await loadAndCompile(content, {accelerator: "wasm", cpuOptions: {numThreads: 1}});
      const given = {};
      for (const {name, dtype, shape, content} of inputs) {
        given[name] = new Tensor(new ARRAYS[dtype](content.buffer), shape);
      }
      const discard = (last) => Object.values(last).forEach((tensor) => tensor.delete());
      let last = {};
      return {
        async run() {
          discard(last);
          last = await model.run(given);
          for (const tensor of Object.values(last)) await tensor.data();
        },
        async outputs() {
          const found = [];
          for (const [name, tensor] of Object.entries(last)) found.push([name, await tensor.data()]);
          return found;
        },
      };
    },
  },
};

async function turn(model, repeats) {
  const start = performance.now();
  for (let i = 0; i < repeats; i++) await model.run();
  return (performance.now() - start) / repeats;
}

async function prepare(runtime, file, index) {
  const inputs = [];
  for (const [i, input] of file.inputs.entries()) {
    inputs.push({...input, content: await bytes(`/inputs/${index}/${i}`)});
  }
  const model = await runtime.load(await bytes(`/files/${index}`), inputs);
  await model.run();
  for (const [key, values] of await model.outputs()) {
    await send(`/outputs/${index}/${encodeURIComponent(key)}?${values.constructor.name}`, values);
  }
  const times = [];
  for (let i = 0; i < WARM_UP_RUNS; i++) times.push(await turn(model, 1));
  model.repeats = Math.max(1, Math.ceil(SHORTEST_TURN_MS / Math.max(Math.min(...times), 0.01)));
  return model;
}

async function main() {
  const job = await (await fetch("/job")).json();
  const runtime = RUNTIMES[job.runtime];
  const features = await runtime.start();
  const models = [];
  for (const [index, file] of job.files.entries()) {
    try {
      models.push(await prepare(runtime, file, index));
    } catch (error) {
      throw new Error(`${file.name}: ${error.message ?? error}`);
    }
    await send("/progress", "1");
  }
  const times = models.map(() => []);
  let shown = performance.now(), pending = 0;
  for (let round = 0; round < job.runs; round++) {
    for (let place = 0; place < models.length; place++) {
      const index = (place + round) % models.length;
      times[index].push(await turn(models[index], models[index].repeats));
    }
    pending += 1;
    if (performance.now() - shown > MS_PER_SIGN_OF_LIFE) {
      await send("/progress", String(pending));
      [shown, pending] = [performance.now(), 0];
    }
  }
  await send("/result", JSON.stringify({times, features, agent: navigator.userAgent}));
}

main().catch((error) => send("/error", String(error?.message ?? error)));
