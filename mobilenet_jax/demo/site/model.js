// The network: LiteRT runs it in WebAssembly, on the device.

import {loadAndCompile, loadLiteRt, Tensor} from './litert/core.js';

async function load(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name}: HTTP status ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Returns whether a file has another SHA-256, which browsers compute for https and localhost only. */
async function isOtherVersion(file, sha256) {
  if (!crypto.subtle) return false;
  const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', file));
  return Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('') !== sha256;
}

/**
 * Loads the network and its description, the JSON file that `mobilenet-jax export` writes.
 * @returns {Promise<{description: object, classify: function(Uint8Array): Promise<Float32Array>}>}
 */
export async function loadModel() {
  const description = JSON.parse(new TextDecoder().decode(await load('model.tflite.json')));
  const file = await load('model.tflite');
  if (await isOtherVersion(file, description.sha256)) throw new Error('its description is of another version');
  await loadLiteRt(new URL('litert/wasm/litert_wasm_compat_internal.js', document.baseURI).href);
  const model = await loadAndCompile(file, {accelerator: 'wasm'});
  const shape = description.input.shape;

  /** Maps uint8 RGB pixels of the input size to probabilities. */
  async function classify(pixels) {
    const input = new Tensor(pixels, shape);
    try {
      const outputs = await model.run(input);
      const probabilities = Float32Array.from(outputs[0].toTypedArray());
      outputs.forEach(tensor => tensor.delete());
      return probabilities;
    } finally {
      input.delete(); // the memory of WebAssembly is not collected
    }
  }
  return {description, classify};
}
