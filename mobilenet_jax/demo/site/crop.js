// The part of the image that is classified. It has given proportions, and can be dragged or set by sliders.

const MAX_SIDE = 1024; // pixels of the preview

/** Rounds a positive number as Python does: halves to the even neighbor. */
const round = x => x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);

/** Draws an image with a frame around the part, and reports changes of the part. */
export class Crop {
  /** @param {function()} onChange - called when the user has changed the part. */
  constructor(onChange) {
    this.canvas = document.getElementById('preview');
    this.sliders = ['zoom', 'left', 'top'].map(id => document.getElementById(id));
    for (const slider of this.sliders) {
      slider.addEventListener('input', () => this.draw());
      slider.addEventListener('change', onChange);
    }
    this.canvas.addEventListener('pointerdown', event => this.startDrag(event));
    this.canvas.addEventListener('pointermove', event => this.drag(event));
    for (const end of ['pointerup', 'pointercancel']) {
      this.canvas.addEventListener(end, event => { if (this.endDrag(event)) onChange(); });
    }
  }

  /**
   * Shows another image. The part is the largest one of the given proportions in its center.
   * @param {ImageBitmap} bitmap
   * @param {{width: number, height: number}} proportions
   */
  show(bitmap, proportions) {
    this.bitmap = bitmap;
    const largest = Math.min(bitmap.height / proportions.height, bitmap.width / proportions.width);
    this.largest = {width: largest * proportions.width, height: largest * proportions.height};
    const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
    this.canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    this.canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const [zoom, left, top] = this.sliders;
    this.canvas.style.maxWidth = `${60 * bitmap.width / bitmap.height}vh`; // the height is at most 60vh
    zoom.value = 1;
    left.value = top.value = 0.5;
    this.draw();
  }

  /** Returns the part in pixels of the image. */
  get part() {
    const [zoom, left, top] = this.sliders.map(slider => Number(slider.value));
    const width = Math.max(1, round(this.largest.width / zoom));
    const height = Math.max(1, round(this.largest.height / zoom));
    return {
      x: Math.floor(left * (this.bitmap.width - width)), y: Math.floor(top * (this.bitmap.height - height)),
      width, height,
    };
  }

  startDrag(event) {
    if (!event.isPrimary || event.button !== 0) return; // a second finger, or another button of a mouse
    this.canvas.setPointerCapture(event.pointerId);
    const [, left, top] = this.sliders;
    this.start = {id: event.pointerId, x: event.clientX, y: event.clientY, left: Number(left.value), top: Number(top.value)};
  }

  /** Moves the part from where it was at the start: sliders round, so that small movements would add up to nothing. */
  drag(event) {
    if (!this.bitmap || event.pointerId !== this.start?.id) return;
    const scale = this.bitmap.width / this.canvas.clientWidth;
    const {width, height} = this.part;
    const [, left, top] = this.sliders;
    const move = (slider, start, pixels, room) => { if (room > 0) slider.value = start + pixels * scale / room; };
    move(left, this.start.left, event.clientX - this.start.x, this.bitmap.width - width);
    move(top, this.start.top, event.clientY - this.start.y, this.bitmap.height - height);
    this.draw();
  }

  /** Returns whether the part has been moved. */
  endDrag(event) {
    if (event.pointerId !== this.start?.id) return false;
    const [, left, top] = this.sliders;
    const moved = Number(left.value) !== this.start.left || Number(top.value) !== this.start.top;
    this.start = null;
    return moved;
  }

  draw() {
    const [zoom, ...positions] = this.sliders;
    zoom.setAttribute('aria-valuetext', `${zoom.value} times`);
    for (const slider of positions) slider.setAttribute('aria-valuetext', `${Math.round(100 * slider.value)}%`);
    const context = this.canvas.getContext('2d');
    const scale = this.canvas.width / this.bitmap.width;
    const {x, y, width, height} = this.part;
    positions[0].disabled = width >= this.bitmap.width; // there is no room to move
    positions[1].disabled = height >= this.bitmap.height;
    context.drawImage(this.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    const isPart = width < this.bitmap.width || height < this.bitmap.height;
    this.canvas.classList.toggle('movable', isPart); // otherwise a finger scrolls the page
    if (!isPart) return;
    context.fillStyle = 'rgba(0, 0, 0, 0.6)';
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.bitmap, x, y, width, height, x * scale, y * scale, width * scale, height * scale);
    context.strokeStyle = '#ffffff';
    context.lineWidth = Math.max(2, this.canvas.width / 200);
    context.strokeRect(x * scale, y * scale, width * scale, height * scale);
  }
}
