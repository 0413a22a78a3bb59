// Keeps the page usable without a network. `mobilenet-jax demo` writes VERSION and FILES above this line.

self.addEventListener('install', event => {
  event.waitUntil(caches.open(VERSION).then(cache => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener('activate', event => {
  const removeOld = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter(name => name !== VERSION).map(name => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(removeOld());
});

self.addEventListener('fetch', event => {
  const answer = async () => {
    const cache = await caches.open(VERSION);
    return await cache.match(event.request, {ignoreSearch: true}) ?? fetch(event.request);
  };
  event.respondWith(answer());
});
