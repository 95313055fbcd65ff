// What node's fetch relies on: stores, reads, tags, parts, chunks, and as many connections as it likes.
'use strict';
const base = 'http://127.0.0.1:' + process.argv[2] + '/';
const cases = [];
const test = (name, body) => cases.push([name, body]);
const same = (got, wanted) => { if (String(got) !== String(wanted)) throw new Error(`${got} is not ${wanted}`); };
const ask = (method, key, body, headers, more) => fetch(base + key, { method, body, headers, ...more });
const text = async (key) => (await ask('GET', key)).text();

test('store and read', async () => {
  same((await ask('PUT', 'na', 'one')).status, 201);
  same((await ask('POST', 'na', 'two')).status, 204);
  same(await text('na'), 'two');
});
test('a miss', async () => same((await ask('GET', 'nothing')).status, 204));
test('delete', async () => { await ask('PUT', 'nb', 'x'); same((await ask('DELETE', 'nb')).status, 204); same((await ask('DELETE', 'nb')).status, 404); });
test('tags', async () => {
  await ask('PUT', 'nc', 'one');
  const tag = (await ask('HEAD', 'nc')).headers.get('etag');
  same((await ask('GET', 'nc', undefined, { 'If-None-Match': tag })).status, 304);
  same((await ask('PUT', 'nc', 'two', { 'If-Match': tag })).status, 204);
  same((await ask('PUT', 'nc', 'three', { 'If-Match': tag })).status, 412);
});
test('parts', async () => { await ask('PUT', 'nd', '0123456789'); same(await (await ask('GET', 'nd', undefined, { Range: 'bytes=3-5' })).text(), '345'); });
test('large values', async () => { const v = 'v'.repeat(500000); await ask('PUT', 'ne', v); same(await text('ne'), v); });
test('a stream', async () => {
  const pieces = [...Array(100).keys()].map((i) => `piece ${i} `.repeat(100));
  const body = new ReadableStream({
    start(to) { for (const piece of pieces) to.enqueue(new TextEncoder().encode(piece)); to.close(); },
  });
  same((await ask('PUT', 'nf', body, {}, { duplex: 'half' })).status, 201);
  same(await text('nf'), pieces.join(''));
});
test('many at once', async () => {
  await Promise.all([...Array(200).keys()].map((i) => ask('PUT', 'ng' + i, 'v' + i).then((answer) => answer.text())));
  const values = await Promise.all([...Array(200).keys()].map((i) => text('ng' + i)));
  same(values.join(), [...Array(200).keys()].map((i) => 'v' + i).join());
});
test('a page of somewhere else', async () => same((await ask('POST', 'nh', 'x', { Origin: 'http://evil.example' })).status, 403));

(async () => {
  for (const [name, body] of cases) {
    try { await body(); console.log('ok ' + name); } catch (error) { console.log('not ok ' + name); console.error(name, error); }
  }
  process.exit(0);
})();
