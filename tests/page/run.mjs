// The admin page in a real browser, before a ring of three nodes one of which dies and comes back.
//
//   node tests/page/run.mjs PROGRAM MODULES SHOTS      as `tests/run page` calls it
//
// PROGRAM is pbcache, MODULES the folder of playwright-core and axe-core, SHOTS a folder for pictures, for a person to look at.
// Every console message of the browser, every request that fails and every serious finding of axe-core fails the test.
// Ends with a line `N passed, N failed`. Nodes listen on loopback and are ended by their process ids.
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";

const [program, modules, shots] = process.argv.slice(2).map((each) => path.resolve(each));
const require = createRequire(path.join(modules, "package.json"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
mkdirSync(shots, { recursive: true });

let passed = 0, failed = 0;
function check(name, holds, told = "") {
  if (holds) passed += 1;
  else { failed += 1; console.log(`not so: ${name}${told === "" ? "" : `: ${told}`}`); }
}
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const freePort = () => new Promise((done) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => { const { port } = server.address(); server.close(() => done(port)); });
});

// -- the ring

const block = 40 + (process.pid % 80);
const addresses = [1, 2, 3].map((node) => `127.${block}.${process.pid % 250}.${node}`);
const port = 24211;
const nodes = [];
async function start(index, adminPort) {
  const words = ["--ip", addresses[index], "--port", port, "--cores", 2, "--memory_size", 64, "--redundancy", 2, "--admin_port", adminPort, "--admin_keys", "--disable_tuning_hint", "--handoff_memory", 1, "--handoff_rate", 300, "--slow_ms", 1];
  for (const address of addresses) words.push("--ringnode", `${address}:${port}`);
  const child = spawn(program, words.map(String), { stdio: ["ignore", "pipe", "inherit"] });
  nodes[index] = child;
  await new Promise((done, fail) => { child.stdout.once("data", done); child.once("exit", () => fail(new Error("a node did not start"))); });
}
async function kill(index) {
  const ended = new Promise((done) => nodes[index].once("exit", done));
  nodes[index].kill("SIGKILL");
  await ended;
}
// Commands over one connection to a node, each answered by lines up to one that ends it.
async function talk(index, commands) {
  const socket = net.connect(port, addresses[index]);
  let text = "";
  socket.on("data", (data) => { text += data; });
  socket.write(commands.join(""));
  for (let tries = 0; tries < 1200 && (text.match(/^(STORED|NOT_STORED|END|SERVER_ERROR.*)\r$/gm) || []).length < commands.length; tries += 1) await pause(25);
  socket.destroy();
  return text;
}
const sets = (from, to) => Array.from({ length: to - from }, (_, index) => `set key${from + index} 0 0 5\r\nvalue\r\n`);

// -- the browser

async function until(page, name, holds, argument) {
  try {
    await page.waitForFunction(holds, argument, { timeout: 60000, polling: 200 });
    check(name, true);
  } catch {
    check(name, false, await page.evaluate(() => document.querySelector("#verdict").textContent));
  }
}
async function judge(page, name) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
  check(`axe-core finds nothing serious ${name}`, serious.length === 0, JSON.stringify(serious.map(({ id, nodes: [first] }) => [id, first.html])));
}
function watch(page, faults) {
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(message.text()); });
  page.on("pageerror", (error) => faults.push(String(error)));
  page.on("requestfailed", (request) => faults.push(`${request.url()} ${request.failure().errorText}`));
  page.on("response", (response) => { if (response.status() >= 400) faults.push(`${response.status()} ${response.url()}`); });
}
const text = (page, selector) => page.$eval(selector, (node) => node.textContent);

async function story(browser, url) {
  const context = await browser.newContext({ viewport: { width: 1180, height: 900 }, colorScheme: "light" });
  const page = await context.newPage(), faults = [], requests = [];
  watch(page, faults);
  page.on("request", (request) => requests.push(new URL(request.url()).pathname));
  const opened = Date.now();
  await page.goto(url);
  await page.waitForSelector("#verdict .ok");
  const ready = Date.now() - opened;
  const usable = await page.evaluate(() => performance.getEntriesByName("usable")[0].startTime);
  check("the page is complete in four requests", requests.length === 4, requests.join(" "));
  console.log(`complete in ${requests.length} requests, usable after ${usable.toFixed(0)} ms by its own clock, seen by this test after ${ready} ms`);
  check("it says that all is well", (await text(page, "#verdict")).includes("All is well: 3 nodes"));
  check("there is an arc for each node", await page.$$eval("#ring .arc", (arcs) => arcs.length) === 3);

  await talk(0, [...sets(0, 300), ...Array.from({ length: 300 }, (_, index) => `get key${index}\r\n`)]);
  await until(page, "members are there", () => [...document.querySelectorAll("#members tbody tr")].filter((row) => row.textContent.includes("up")).length === 2);
  await until(page, "commands are plotted", () => /gets [1-9]/.test(document.querySelector("#plots figcaption").textContent) || document.querySelector("#plots .line0").getAttribute("d").length > 20);

  await page.fill("#where input[name=key]", "key7");
  await page.keyboard.press("Enter");
  await until(page, "a key's owners are told", () => /^Owned by .*answers for it now/.test(document.querySelector("#where-answer").textContent));
  check("lines go from the key to its two owners", await page.$$eval("#ring .key-line", (lines) => lines.length) === 2);
  check("one of them serves", await page.$$eval("#ring .key-line.serves", (lines) => lines.length) === 1);

  await page.fill("#key input[name=key]", "key7");
  await page.click("#key button[name=get]");
  await until(page, "a value is shown", () => document.querySelector("#key-answer pre")?.textContent === "value");

  await until(page, "its copies on both owners are told, and who answers", () => { const rows = [...document.querySelectorAll("#copies tbody tr")].map((row) => row.textContent); return rows.length === 2 && rows.filter((row) => row.includes("(answers)")).length === 1; });

  await until(page, "every node tells of itself", () => { const rows = [...document.querySelectorAll("#nodes tbody tr")]; return rows.length === 3 && rows.every((row) => row.textContent.includes("All is well")); });
  // A sample is taken of some of them, in a later turn.
  for (let round = 0; round < 8; round += 1) await talk(0, Array.from({ length: 300 }, (_, index) => `get key${index}\r\n`));
  await page.click("#top summary");
  await until(page, "keys that are asked for are told", () => document.querySelectorAll("#top tbody tr").length > 0 && /From [1-9]/.test(document.querySelector("#top p").textContent));
  await page.click("#memory summary");
  await until(page, "memory is told by time to live", () => document.querySelectorAll("#memory tbody tr").length === 7);
  await page.click("#slow summary");
  await until(page, "slow requests are told", () => /took longer than 1 ms/.test(document.querySelector("#slow p").textContent));
  await page.click("#latency summary");
  await until(page, "times are told by protocol and kind", () => document.querySelectorAll("#latency tbody tr").length >= 2);
  await page.click("#settings summary");
  await until(page, "settings are shown", () => document.querySelector("#settings table").textContent.includes("pbcache_cores"));
  await page.click("#settings summary");
  await page.click("#plots details summary");
  await until(page, "a plot has a table", () => document.querySelectorAll("#plots tbody tr").length > 0);
  await page.click("#plots details summary");
  await judge(page, "in light colours");
  await page.evaluate(() => window.scrollTo(0, 0));
  await page.screenshot({ path: path.join(shots, "light.png"), fullPage: false });

  await kill(2);
  await talk(0, sets(0, 12000));
  await until(page, "the node that died is away", (id) => document.querySelector(`#ring .arc[data-node="${id}"]`)?.dataset.state === "away", `${addresses[2]}:${port}`);
  await until(page, "the verdict names it and what waits", (id) => document.querySelector("#verdict .bad")?.textContent.match(new RegExp(`Node ${id} is away since .*keys wait for it`)), `${addresses[2]}:${port}`);
  check("an arrow tells how many keys wait", /keys$/.test(await text(page, "#ring [data-waiting]")));
  await until(page, "arrows start at both nodes that keep something for it", () => new Set([...document.querySelectorAll("#ring [data-waiting]")].map((text) => text.dataset.from)).size === 2);
  await until(page, "a node that is away says nothing", () => document.querySelector("#nodes").textContent.includes("it is away"));
  await grid(page, url, `${addresses[2]}:${port}`);
  await judge(page, "while a node is away");
  await page.screenshot({ path: path.join(shots, "away.png"), fullPage: true });
  await page.evaluate(() => window.scrollTo(0, 0));
  await page.screenshot({ path: path.join(shots, "readme.png"), fullPage: false });

  await start(2, 0);
  await until(page, "work that takes long shows how much of it is done, and the time left", () => [...document.querySelectorAll("#handoff tbody tr")].some((row) => Number(row.querySelector("progress")?.value) > 0 && /^(at least )?\d+ (s|min)$/.test(row.lastChild.textContent)));
  await page.screenshot({ path: path.join(shots, "transfer.png"), fullPage: true });
  await talk(0, sets(600, 620));
  await until(page, "when it is back, all is well again", () => document.querySelector("#verdict .ok")?.textContent.includes("All is well"));
  check("no console message, no failed request", faults.length === 0, faults.join("; "));
  await context.close();
}

// The grid of partitions: its squares, its sentence and its table say what the node says.
async function grid(page, url, target) {
  await page.selectOption("#partitions select", target);
  await page.click("#partitions button");
  await until(page, "the grid tells of partitions that are sent whole", () => /^[1-9][\d,]* of 4,096 partitions/.test(document.querySelector("#grid-text").textContent));
  const { dirty } = await (await fetch(`${url}api/v1/partitions?target=${encodeURIComponent(target)}`)).json();
  const shown = await page.evaluate(() => {
    const { data } = document.querySelector("#grid").getContext("2d").getImageData(0, 0, 256, 256), squares = [];
    for (let partition = 0; partition < 4096; partition += 1) {
      const x = 4 * (partition % 64) + 3, y = 4 * Math.floor(partition / 64) + 3;
      if (data[4 * (256 * y + x) + 3] > 0) squares.push(partition);
    }
    const table = [...document.querySelectorAll("#grid-table tbody td")].reduce((sum, cell) => sum + Number(cell.textContent), 0);
    return { squares, table, sentence: Number(document.querySelector("#grid-text").textContent.split(" ")[0].replace(",", "")) };
  });
  check("the squares of the grid are the partitions", JSON.stringify(shown.squares) === JSON.stringify(dirty), `${shown.squares.length} squares, ${dirty.length} partitions`);
  check("the grid's sentence and table say the same", shown.sentence === dirty.length && shown.table === dirty.length, `${shown.sentence}, ${shown.table}, ${dirty.length}`);
}

async function looks(browser, url) {
  for (const [name, options] of [["dark", { colorScheme: "dark", viewport: { width: 1180, height: 900 } }], ["narrow", { viewport: { width: 390, height: 844 }, reducedMotion: "reduce" }]]) {
    const context = await browser.newContext(options), page = await context.newPage(), faults = [];
    watch(page, faults);
    await page.goto(url);
    await page.waitForSelector("#verdict .ok");
    await pause(2500);
    check(`nothing sticks out of the window, ${name}`, await page.evaluate(() => document.documentElement.scrollWidth <= document.documentElement.clientWidth));
    await judge(page, name);
    await page.screenshot({ path: path.join(shots, `${name}.png`), fullPage: true });
    check(`no console message, ${name}`, faults.length === 0, faults.join("; "));
    await context.close();
  }
  const context = await browser.newContext({ viewport: { width: 1180, height: 900 } }), page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("#verdict .ok");
  const stops = [];
  for (let presses = 0; presses < 24; presses += 1) {
    await page.keyboard.press("Tab");
    stops.push(await page.evaluate(() => { const at = document.activeElement; return at.name || at.id || at.textContent.trim().slice(0, 20); }));
  }
  check("the keyboard reaches forms in their order", stops.indexOf("key") === 1 && stops.includes("target") && stops.includes("token"), stops.join(", "));
  await context.close();
}

let browser;
try {
  const adminPort = await freePort(), url = `http://127.0.0.1:${adminPort}/`;
  await start(0, adminPort);
  await start(1, 0);
  await start(2, 0);
  const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find((each) => { try { readFileSync(each); return true; } catch { return false; } });
  browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
  await story(browser, url);
  await looks(browser, url);
} catch (error) {
  check("the test itself", false, error.stack);
} finally {
  await browser?.close();
  nodes.forEach((child) => child.kill("SIGKILL"));
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
