// Keeps the page usable without a network. `mobilenet-jax demo` writes VERSION and FILES, the files and their SHA-256,
// above this line.

// Other pages of the same host have caches, too.
const PREFIX = `${self.registration.scope} `;
const NAME = PREFIX + VERSION;

// A new version waits until the page is closed: an open page must not load the network of another version.
self.addEventListener('install', event => {
  const store = async () => {
    const cache = await caches.open(NAME);
    await Promise.all(Object.entries(FILES).map(async ([file, sha256]) => cache.put(file, await load(file, sha256))));
  };
  event.waitUntil(store());
});

/** Loads a file. One of another version, as during an upload, is an error: the browser installs later. */
async function load(file, sha256) {
  const response = await fetch(new Request(file, {cache: 'no-cache'}));
  const content = await response.arrayBuffer();
  const bytes = new Uint8Array(await crypto.subtle.digest('SHA-256', content));
  const hex = Array.from(bytes, byte => byte.toString(16).padStart(2, '0')).join('');
  if (hex !== sha256) throw new Error(`${file} is not of this version`);
  // A redirected response cannot be shown, and one with the header `Vary: *` cannot be stored.
  return new Response(content, {headers: {'Content-Type': response.headers.get('Content-Type') ?? ''}});
}

self.addEventListener('activate', event => {
  const removeOld = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter(name => name.startsWith(PREFIX) && name !== NAME).map(name => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(removeOld());
});

self.addEventListener('fetch', event => {
  const answer = async () => {
    const cache = await caches.open(NAME);
    return await cache.match(event.request, {ignoreSearch: true, ignoreVary: true}) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
