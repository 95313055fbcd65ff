// What memjs, a binary client, relies on: set, get, add, replace, append, delete, increment, touch, flush, stats.
'use strict';
const memjs = require('memjs');
const client = memjs.Client.create('127.0.0.1:' + process.argv[2], { retries: 0, timeout: 5, conntimeout: 5 });
const cases = [];
const test = (name, body) => cases.push([name, body]);
const same = (got, wanted) => { if (String(got) !== String(wanted)) throw new Error(`${got} is not ${wanted}`); };
const get = async (key) => { const { value } = await client.get(key); return value === null ? 'none' : value.toString(); };

test('set and get', async () => { await client.set('a', 'one', { expires: 60 }); same(await get('a'), 'one'); });
test('a miss', async () => same(await get('nothing'), 'none'));
test('flags', async () => { await client.set('f', 'x', {}); same((await client.get('f')).flags !== null, true); });
test('add', async () => { same(await client.add('a', 'two', {}), false); same(await client.add('b', 'two', {}), true); });
test('replace', async () => { same(await client.replace('none', 'x', {}), false); same(await client.replace('b', 'three', {}), true); });
// Its prepend sends the opcode of append, to any server.
test('append', async () => { await client.append('b', '>'); same(await get('b'), 'three>'); });
test('delete', async () => { same(await client.delete('b'), true); same(await client.delete('b'), false); });
test('increment', async () => { same((await client.increment('n', 5, { initial: 7 })).value, 7); same((await client.increment('n', 5, {})).value, 12); });
test('decrement', async () => { same((await client.decrement('n', 2, {})).value, 10); same((await client.decrement('n', 100, {})).value, 0); });
test('touch', async () => same(await client.touch('a', 60), true));
test('large values', async () => { const v = 'v'.repeat(500000); await client.set('large', v, {}); same(await get('large'), v); });
test('many at once', async () => {
  await Promise.all([...Array(200).keys()].map((i) => client.set('k' + i, 'v' + i, {})));
  const values = await Promise.all([...Array(200).keys()].map((i) => get('k' + i)));
  same(values.join(), [...Array(200).keys()].map((i) => 'v' + i).join());
});
test('stats', () => new Promise((done, fail) => client.stats((error, _, stats) => (error || !stats.pid ? fail(error || new Error('no pid')) : done()))));
test('flush', async () => { await client.flush(); same(await get('a'), 'none'); });

(async () => {
  for (const [name, body] of cases) {
    try { await body(); console.log('ok ' + name); } catch (error) { console.log('not ok ' + name); console.error(name, error); }
  }
  client.close();
  process.exit(0);
})();
