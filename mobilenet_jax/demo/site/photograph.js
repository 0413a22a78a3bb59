// Opens image files, and reads the pixels of a part of them.

const MAX_MEGAPIXELS = 64;
const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const PNG_BITS = 24; // the position of the number of bits per channel
const MAX_NOISE = 2; // of 255 levels
const MAX_CANVAS = 4e6; // pixels; iOS limits a canvas to 16.8 million, fewer than its photographs have

/**
 * Opens an image file. Its orientation in EXIF is applied; of an animation, the first frame is used.
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} with a message for the user: the file is not an image, is damaged, is too large, or has 16 bits per
 *     channel.
 */
export async function openPhotograph(file) {
  const {naturalWidth: width, naturalHeight: height} = await readHeader(file);
  if (width * height > MAX_MEGAPIXELS * 1e6) {
    throw new Error(`This image has ${Math.round(width * height / 1e6)} megapixels; the limit is ${MAX_MEGAPIXELS}.`);
  }
  if (await hasSixteenBits(file)) { // often images of 12 bits, which would be black
    throw new Error('This image has 16 bits per channel. Convert it to 8 bits first.');
  }
  try {
    return await createImageBitmap(file, {imageOrientation: 'from-image', colorSpaceConversion: 'none'});
  } catch {
    throw new Error('This image is damaged, or in a format that the browser cannot read.');
  }
}

/** Returns whether a file is a PNG of 16 bits per channel. */
async function hasSixteenBits(file) {
  const header = new Uint8Array(await file.slice(0, PNG_BITS + 1).arrayBuffer());
  return PNG_SIGNATURE.every((byte, i) => header[i] === byte) && header[PNG_BITS] === 16;
}

/** Loads a file as an image element, which knows its size before its pixels are decoded. */
async function readHeader(file) {
  const url = URL.createObjectURL(file);
  try {
    return await new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error('This file is not an image that the browser can read.'));
      image.src = url;
    });
  } finally {
    URL.revokeObjectURL(url);
  }
}

/**
 * Checks that the browser returns the pixels that were drawn; some alter them, as protection against fingerprinting.
 * @throws {Error} with a message for the user: they differ.
 */
function checkCanvas() {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 8;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const colors = Array.from({length: 64}, (_, i) => [4 * i, 255 - 4 * i, 37 * i % 256]);
  colors.forEach((color, i) => {
    context.fillStyle = `rgb(${color})`;
    context.fillRect(i % 8, Math.floor(i / 8), 1, 1);
  });
  const {data} = context.getImageData(0, 0, 8, 8);
  if (colors.some((color, i) => color.some((value, channel) => Math.abs(data[4 * i + channel] - value) > MAX_NOISE))) {
    throw new Error('This browser alters the pixels that pages read, as protection against fingerprinting. Allow this ' +
      'page to read the canvas, or use another browser.');
  }
}

/**
 * Reads the pixels of a part of an image.
 * @param {ImageBitmap} bitmap
 * @param {{x: number, y: number, width: number, height: number}} part - in pixels.
 * @returns {Uint8ClampedArray} four values per pixel.
 * @throws {Error} with a message for the user: the browser alters pixels, or the part is transparent in places. A canvas
 *     loses the colors there.
 */
export function readPixels(bitmap, part) {
  checkCanvas();
  const canvas = document.createElement('canvas');
  canvas.width = part.width;
  canvas.height = Math.min(part.height, Math.max(1, Math.floor(MAX_CANVAS / part.width)));
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const pixels = new Uint8ClampedArray(4 * part.width * part.height);
  for (let top = 0; top < part.height; top += canvas.height) { // in strips
    const rows = Math.min(canvas.height, part.height - top);
    context.clearRect(0, 0, part.width, rows);
    context.drawImage(bitmap, part.x, part.y + top, part.width, rows, 0, 0, part.width, rows);
    pixels.set(context.getImageData(0, 0, part.width, rows).data, 4 * part.width * top);
  }
  for (let i = 3; i < pixels.length; i += 4) {
    if (pixels[i] < 255) throw new Error('This image is transparent in places. Save it without transparency first.');
  }
  return pixels;
}
