// The page: opens an image, classifies the chosen part, shows the probabilities.

import {Crop} from './crop.js';
import {openPhotograph, readPixels} from './photograph.js';
import {resize} from './preprocessing.js';

const MAX_ROWS = 20; // ImageNet has 1000 classes
const element = id => document.getElementById(id);
const inputs = [element('camera'), element('file')];
const crop = new Crop(() => run(showResult));
let model;
let bitmap;
let tasks = 0;

function setStatus(text) {
  element('status').textContent = text;
}

/**
 * Runs a task, and shows its error. A task that was overtaken by a later one, such as a smaller image, shows nothing.
 * @param {function(function(): boolean): Promise<void>} task - its argument returns whether it is the latest task.
 */
async function run(task) {
  const number = ++tasks;
  const isLatest = () => number === tasks;
  try {
    await task(isLatest);
  } catch (error) {
    if (!isLatest()) return;
    element('result').hidden = true;
    setStatus(error.message);
  }
}

async function start() {
  setStatus('Loading the model …'); // scripts are blocked if the page was opened as a file
  showWhenOffline();
  try {
    model = await (await import('./model.js')).loadModel();
  } catch (error) {
    throw new Error(`The model could not be loaded (${error.message}). Check the connection, and reload the page.`);
  }
  describeModel(model.description);
  for (const input of inputs) {
    input.disabled = false;
    input.addEventListener('change', () => {
      const [file] = input.files;
      input.value = ''; // so that the same file can be chosen again
      if (file) run(isLatest => open(file, isLatest));
    });
  }
  setStatus('Ready.');
}

/** Shows that the page works without a network as soon as that is true, and that a new version waits. */
async function showWhenOffline() {
  const registration = await navigator.serviceWorker?.register('service-worker.js');
  if (!registration) return;
  const showUpdate = () => element('update').hidden = !registration.waiting;
  registration.addEventListener('updatefound', () => registration.installing.addEventListener('statechange', showUpdate));
  showUpdate();
  await navigator.serviceWorker.ready;
  element('offline').hidden = false;
}

async function open(file, isLatest) {
  setStatus('Reading the image …');
  element('crop').hidden = element('result').hidden = true;
  const opened = await openPhotograph(file);
  if (!isLatest()) {
    opened.close();
    return;
  }
  bitmap?.close();
  bitmap = opened;
  element('crop').hidden = false;
  const {shape: [, height, width], resize} = model.description.input;
  crop.show(bitmap, resize === 'crop' ? {width, height} : bitmap);
  await showResult(isLatest);
}

async function showResult(isLatest) {
  if (!bitmap) return;
  const [, height, width] = model.description.input.shape;
  const part = crop.part;
  const pixels = resize(readPixels(bitmap, part), part.width, part.height, width, height);
  const probabilities = await model.classify(pixels);
  if (!isLatest()) return;
  const names = model.description.classes ?? Array.from(probabilities, (_, i) => `class ${i}`);
  const titles = model.description.class_titles ?? [];
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  element('classes').replaceChildren(...order.slice(0, MAX_ROWS).map(i => makeRow(names[i], titles[i], probabilities[i])));
  const others = order.slice(MAX_ROWS);
  const rest = formatPercent(others.reduce((sum, i) => sum + probabilities[i], 0));
  element('others').hidden = !others.length;
  element('others').textContent = `Other classes: ${others.length}, with ${rest} together.`;
  element('result').hidden = false;
  const [first] = order;
  const name = titles[first] ? `${names[first]} (${titles[first]})` : names[first];
  setStatus(`Most probable of ${names.length} classes: ${name}, ${formatPercent(probabilities[first])}. Not a diagnosis.`);
}

function makeRow(name, title, probability) {
  const row = document.createElement('li');
  row.dataset.probability = probability;
  const [label, short, percent, bar, fill] = ['span', 'span', 'span', 'div', 'span'].map(tag => document.createElement(tag));
  short.className = 'name';
  short.textContent = name;
  label.append(short, title ? ` (${title})` : '');
  percent.className = 'percent';
  percent.textContent = formatPercent(probability);
  bar.className = 'bar';
  bar.setAttribute('aria-hidden', 'true'); // the percentage is read instead
  fill.style.width = `${100 * probability}%`;
  bar.append(fill);
  row.append(label, percent, bar);
  return row;
}

function formatPercent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

function describeModel(description) {
  const [, height, width] = description.input.shape;
  const rows = {
    'Network': `MobileNet v1, alpha ${description.alpha}, ${description.quantization === 'none' ? 'float32' : description.quantization}`,
    'Input': `${width} x ${height} pixels`,
    ...(description.output.prior && {'Probabilities': description.output.prior}), // unknown for bare weights
    'Training data': description.training_data,
    'License of the data': description.license,
    'Weights': description.source,
    'Notice': description.notice,
  };
  element('about').replaceChildren(...Object.entries(rows).flatMap(([term, text]) => {
    const [dt, dd] = ['dt', 'dd'].map(tag => document.createElement(tag));
    dt.textContent = term;
    dd.textContent = text;
    return [dt, dd];
  }));
}

run(start);
