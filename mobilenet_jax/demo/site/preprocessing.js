// The preprocessing of training: the part of an image is resized as a whole, without keeping its proportions.

/**
 * Resizes pixels as OpenCV does: by area averaging if both sides become smaller, else by bilinear interpolation.
 * @param {Uint8ClampedArray} rgba - the pixels of `width` x `height`, four values each; the fourth is ignored.
 * @param {number} width
 * @param {number} height
 * @param {number} newWidth
 * @param {number} newHeight
 * @returns {Uint8Array} `newHeight` x `newWidth` pixels, three values each.
 */
export function resize(rgba, width, height, newWidth, newHeight) {
  const shrinks = newWidth <= width && newHeight <= height;
  const computeTaps = shrinks ? computeAreaTaps : computeLinearTaps;
  const columns = computeTaps(width, newWidth);
  const rows = computeTaps(height, newHeight);
  const sums = new Float32Array(width * 3);
  const result = new Uint8Array(newWidth * newHeight * 3);
  let target = 0;
  for (const row of rows) {
    sums.fill(0);
    for (const [y, weight] of row) {
      let source = y * width * 4;
      for (let i = 0; i < sums.length; i += 3, source += 4) {
        sums[i] += weight * rgba[source];
        sums[i + 1] += weight * rgba[source + 1];
        sums[i + 2] += weight * rgba[source + 2];
      }
    }
    for (const column of columns) {
      let red = 0, green = 0, blue = 0;
      for (const [x, weight] of column) {
        red += weight * sums[3 * x];
        green += weight * sums[3 * x + 1];
        blue += weight * sums[3 * x + 2];
      }
      result[target++] = Math.round(red);
      result[target++] = Math.round(green);
      result[target++] = Math.round(blue);
    }
  }
  return result;
}

/** Returns, for each new position, the old ones that it covers, with the fractions that they contribute. */
function computeAreaTaps(size, newSize) {
  const scale = size / newSize;
  return Array.from({length: newSize}, (_, i) => {
    const start = i * scale, end = Math.min(start + scale, size);
    const taps = [];
    for (let position = Math.floor(start); position < end; position++) {
      const weight = (Math.min(position + 1, end) - Math.max(position, start)) / scale;
      if (weight > 1e-6) taps.push([position, weight]);
    }
    return taps;
  });
}

/** Returns, for each new position, the two nearest old ones with their weights. */
function computeLinearTaps(size, newSize) {
  return Array.from({length: newSize}, (_, i) => {
    const position = Math.min(Math.max((i + 0.5) * size / newSize - 0.5, 0), size - 1);
    const low = Math.floor(position), fraction = position - low;
    return fraction ? [[low, 1 - fraction], [low + 1, fraction]] : [[low, 1]];
  });
}
