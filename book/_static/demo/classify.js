// ONNX Runtime in WebAssembly, one thread, with the two networks: the face detector and ours.

import { IMAGE_SIZE } from "./crop.js";

async function download(path) {
  const response = await fetch(new URL(path, import.meta.url));
  if (!response.ok) throw new Error(`${path}: the server answered ${response.status}`);
  return response.arrayBuffer();
}

// Gzip's two first bytes tell whether a server has unpacked the file already.
async function unpacked(bytes) {
  const [first, second] = new Uint8Array(bytes);
  if (first !== 0x1f || second !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// Whether this browser runs WebAssembly with SIMD: it knows the instruction i8x16.splat.
export function canRun() {
  const module = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];
  return typeof WebAssembly === "object" && "DecompressionStream" in globalThis && WebAssembly.validate(new Uint8Array(module));
}

let attempts = 0;

// Loads everything, about 7 MB. After a failure it can be called again. Gives
//   about     what the record of the training run says: model.json
//   detector  128x128 RGB planes, -1 to 1 -> {scores, boxes}
//   network   48x48 gray levels -> {logits, probabilities}, one number for each of about.classes
// `read` gives a file's bytes by its path in this folder.
export async function load(read = download) {
  // A browser remembers a module that failed to load, by its address. Another address is asked for again.
  const again = attempts ? `?attempt=${attempts}` : "";
  attempts += 1;
  const [ort, wasm, finder, classifier, card] = await Promise.all([
    import(`./vendor/ort.wasm.min.mjs${again}`),
    read("vendor/ort-wasm-simd-threaded.wasm.gz").then(unpacked),
    read("vendor/face_detection_short_range.onnx"),
    read("model/network.onnx"),
    read("model/model.json"),
  ]);
  ort.env.wasm.numThreads = 1; // more would need headers that a plain server does not send
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = { mjs: new URL(`vendor/ort-wasm-simd-threaded.mjs${again}`, import.meta.url).href };
  const open = (bytes) => ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  const [faces, labels] = [await open(finder), await open(classifier)];
  const models = {
    about: JSON.parse(new TextDecoder().decode(card)),
    async detector(planes) {
      const { scores, boxes } = await faces.run({ image: new ort.Tensor("float32", planes, [1, 3, 128, 128]) });
      return { scores: scores.data, boxes: boxes.data };
    },
    async network(levels) {
      const pixels = new ort.Tensor("float32", Float32Array.from(levels), [1, 1, IMAGE_SIZE, IMAGE_SIZE]);
      const { logits, probabilities } = await labels.run({ pixels });
      return { logits: logits.data, probabilities: probabilities.data };
    },
  };
  // A cache, or a site that is just being updated, may give files that don't belong together.
  const { probabilities } = await models.network(new Uint8Array(IMAGE_SIZE ** 2));
  if (models.about?.classes?.length !== probabilities.length) throw new Error("model.json does not fit network.onnx");
  return models;
}
