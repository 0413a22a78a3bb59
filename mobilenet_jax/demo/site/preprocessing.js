// The preprocessing of training: the part of an image is resized to the input of the network.

/**
 * Resizes pixels as OpenCV does, with differences of at most one level: by area averaging if neither side becomes
 * longer, else by bilinear interpolation.
 * @param {Uint8ClampedArray} rgba - the pixels of `width` x `height`, four values each; the fourth is ignored.
 * @param {number} width
 * @param {number} height
 * @param {number} newWidth
 * @param {number} newHeight
 * @returns {Uint8Array} `newHeight` x `newWidth` pixels, three values each.
 */
export function resize(rgba, width, height, newWidth, newHeight) {
  const shrinks = newWidth <= width && newHeight <= height;
  return (shrinks ? averageAreas : interpolate)(rgba, width, height, newWidth, newHeight);
}

function averageAreas(rgba, width, height, newWidth, newHeight) {
  const columns = computeAreaTaps(width, newWidth);
  const rows = computeAreaTaps(height, newHeight);
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

/** Interpolates bilinearly, in the fixed-point arithmetic of OpenCV: weights have 11 bits. */
function interpolate(rgba, width, height, newWidth, newHeight) {
  const columns = computeLinearTaps(width, newWidth);
  const result = new Uint8Array(newWidth * newHeight * 3);
  let target = 0;
  for (const [top, bottom, topWeight, bottomWeight] of computeLinearTaps(height, newHeight)) {
    for (const [left, right, leftWeight, rightWeight] of columns) {
      for (let channel = 0; channel < 3; channel++) {
        const read = (x, y) => rgba[4 * (y * width + x) + channel];
        const upper = read(left, top) * leftWeight + read(right, top) * rightWeight;
        const lower = read(left, bottom) * leftWeight + read(right, bottom) * rightWeight;
        result[target++] = ((topWeight * (upper >> 4) >> 16) + (bottomWeight * (lower >> 4) >> 16) + 2) >> 2;
      }
    }
  }
  return result;
}

/** Returns, for each new position, the two nearest old ones and their weights, whose sum is 2048. */
function computeLinearTaps(size, newSize) {
  return Array.from({length: newSize}, (_, i) => {
    const position = Math.min(Math.max((i + 0.5) * size / newSize - 0.5, 0), size - 1);
    const low = Math.floor(position), weight = Math.round(2048 * (position - low));
    return [low, Math.min(low + 1, size - 1), 2048 - weight, weight];
  });
}
