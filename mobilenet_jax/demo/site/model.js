// The network: LiteRT runs it in WebAssembly, on the device.

import {loadAndCompile, loadLiteRt, Tensor} from './litert/core.js';

/**
 * Loads the network and its description, the JSON file that `mobilenet-jax export` writes.
 * @returns {Promise<{description: object, classify: function(Uint8Array): Promise<Float32Array>}>}
 */
export async function loadModel() {
  const response = await fetch('model.tflite.json');
  const description = await response.json();
  await loadLiteRt(new URL('litert/wasm/litert_wasm_compat_internal.js', document.baseURI).href);
  const model = await loadAndCompile('model.tflite', {accelerator: 'wasm'});
  const shape = description.input.shape;

  /** Maps uint8 RGB pixels of the input size to probabilities. */
  async function classify(pixels) {
    const input = new Tensor(pixels, shape);
    const outputs = await model.run(input);
    input.delete();
    const [output] = outputs;
    const probabilities = Float32Array.from(output.toTypedArray());
    outputs.forEach(tensor => tensor.delete());
    return probabilities;
  }
  return {description, classify};
}
