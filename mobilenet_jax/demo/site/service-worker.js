// Keeps the page usable without a network. `mobilenet-jax demo` writes VERSION and FILES above this line.

// Other pages of the same host have caches, too.
const PREFIX = `${self.registration.scope} `;
const NAME = PREFIX + VERSION;

// A new version waits until the page is closed: an open page must not load the network of another version.
self.addEventListener('install', event => {
  const requests = FILES.map(file => new Request(file, {cache: 'no-cache'}));
  event.waitUntil(caches.open(NAME).then(cache => cache.addAll(requests)));
});

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
    return await cache.match(event.request, {ignoreSearch: true}) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
