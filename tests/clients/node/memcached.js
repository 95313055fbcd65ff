// What the npm client `memcached`, a text client, relies on.
'use strict';
const Memcached = require('memcached');
const client = new Memcached('127.0.0.1:' + process.argv[2], { retries: 0, timeout: 5000 });
const cases = [];
const test = (name, body) => cases.push([name, body]);
const same = (got, wanted) => { if (String(got) !== String(wanted)) throw new Error(`${got} is not ${wanted}`); };
const ask = (method, ...words) => new Promise((done, fail) => client[method](...words, (error, value) => (error ? fail(error) : done(value))));
const refused = async (promise) => { try { return (await promise) === false; } catch { return true; } };

test('set and get', async () => { same(await ask('set', 'a', 'one', 60), true); same(await ask('get', 'a'), 'one'); });
test('types', async () => { await ask('set', 'o', { x: [1, 2] }, 0); same((await ask('get', 'o')).x[1], 2); await ask('set', 'b', Buffer.from([0, 13, 10, 255]), 0); same((await ask('get', 'b')).toString('hex'), '000d0aff'); });
test('a miss', async () => same(await ask('get', 'nothing'), undefined));
test('multi get', async () => { await ask('set', 'm1', '1', 0); await ask('set', 'm2', '2', 0); const all = await ask('getMulti', ['m1', 'm2', 'm3']); same(all.m1 + all.m2, '12'); same(all.m3, undefined); });
test('add and replace', async () => { same(await refused(ask('add', 'a', 'x', 0)), true); same(await ask('replace', 'a', 'two', 0), true); same(await refused(ask('replace', 'nothing', 'x', 0)), true); });
test('append and prepend', async () => { await ask('append', 'a', '>'); await ask('prepend', 'a', '<'); same(await ask('get', 'a'), '<two>'); });
test('cas', async () => { const read = await ask('gets', 'a'); same(await ask('cas', 'a', 'three', read.cas, 0), true); same(await refused(ask('cas', 'a', 'four', read.cas, 0)), true); });
test('incr and decr', async () => { await ask('set', 'n', '10', 0); same(await ask('incr', 'n', 5), 15); same(await ask('decr', 'n', 20), 0); });
test('touch and delete', async () => { same(await ask('touch', 'a', 60), true); same(await ask('del', 'a'), true); });
test('large values', async () => { const v = 'v'.repeat(500000); await ask('set', 'large', v, 0); same(await ask('get', 'large'), v); });
test('version', async () => same((await ask('version')).length > 0, true));
test('stats', async () => same((await ask('stats'))[0].pid > 0, true));
test('settings', async () => same((await ask('settings'))[0].maxconns > 0, true));
test('slabs and items', async () => { await ask('slabs'); await ask('items'); });
test('flush', async () => { await ask('flush'); same(await ask('get', 'large'), undefined); });

(async () => {
  for (const [name, body] of cases) {
    try { await body(); console.log('ok ' + name); } catch (error) { console.log('not ok ' + name); console.error(name, error); }
  }
  client.end();
  process.exit(0);
})();
