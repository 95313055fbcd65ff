// The admin page: one stream of events, and what people ask for. No library.
//
//   hello   { node, ring }   once: who this is, who is in the ring, where second copies are
//   figures { .. }           once a second: counters since start, of which this page makes rates
//
// Everything is put into the page as text, never as markup.

const $ = (selector) => document.querySelector(selector);
const SAMPLES = 300;
const history = [];
let node = null, ring = null, lookedUp = null;

const number = (value) => Math.round(value).toLocaleString("en");
const bytes = (value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
};
const seconds = (value) => {
  if (value === 0) return "0";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 120) return `${Math.round(value)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
};
const percent = (value) => `${(100 * value).toFixed(1)} %`;

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}
function drawn(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== "") made.textContent = text;
  return made;
}
// Rows of a table; a cell is a text, a number's text with `n`, or an element.
function rows(table, list) {
  const body = table.tBodies[0];
  const made = list.map((cells) => element("tr", {}, ...cells.map((cell, index) => {
    if (cell instanceof Node) return element("td", {}, cell);
    const { text, kind = "" } = typeof cell === "object" ? cell : { text: cell };
    const place = element(index === 0 ? "th" : "td", { className: kind }, String(text));
    if (index === 0) place.scope = "row";
    return place;
  })));
  body.replaceChildren(...made);
}
const right = (text) => ({ text, kind: "n" });

// -- the verdict

function showVerdict(verdicts) {
  const list = verdicts.map(({ level, text }) => element("p", { className: level }, `${{ bad: "✖", warn: "▲", ok: "✔" }[level]} ${text}`));
  const place = $("#verdict");
  const said = (nodes) => nodes.map((each) => each.textContent).join();
  // The same words are not said again.
  if (said([...place.children]) !== said(list)) place.replaceChildren(...list);
}

// -- the picture of the ring

const CENTRE_X = 280, CENTRE_Y = 190, RADIUS = 120;
const at = (turn, radius) => [CENTRE_X + radius * Math.sin(2 * Math.PI * turn), CENTRE_Y - radius * Math.cos(2 * Math.PI * turn)];
const point = (turn, radius) => at(turn, radius).map((value) => value.toFixed(1)).join(" ");
const stateClass = (state) => ({ here: "here", up: "up", "partly up": "partly", away: "away" })[state] || "idle";

function arcs() {
  const total = ring.nodes.reduce((sum, each) => sum + each.share, 0) || 1;
  let start = 0;
  return ring.nodes.map((each) => {
    const length = each.share / total;
    const arc = { ...each, start, length, middle: start + length / 2 };
    start += length;
    return arc;
  });
}

function drawRing() {
  if (!ring) return;
  const group = drawn("g"), list = arcs(), few = list.length <= 12;
  const copies = ring.second_copies;
  if (ring.redundancy > 1) {
    list.forEach((from, row) => list.forEach((to, column) => {
      if (row === column || copies[row][column] === 0) return;
      const width = Math.max(0.5, 12 * copies[row][column] * from.length);
      group.append(drawn("path", { class: "chord", "stroke-width": width.toFixed(1), d: `M ${point(from.middle, RADIUS - 12)} Q ${CENTRE_X} ${CENTRE_Y} ${point(to.middle, RADIUS - 12)}` }));
    }));
  }
  for (const arc of list) {
    if (arc.length === 0) continue;
    const gap = list.length > 1 ? Math.min(0.004, arc.length / 8) : 0, end = arc.start + Math.min(arc.length, 0.9999) - gap;
    const d = `M ${point(arc.start + gap, RADIUS)} A ${RADIUS} ${RADIUS} 0 ${end - arc.start - gap > 0.5 ? 1 : 0} 1 ${point(end, RADIUS)}`;
    group.append(drawn("path", { class: `arc ${stateClass(arc.state)}`, d, "data-node": arc.id, "data-state": arc.state }));
    if (few) {
      const [x, y] = at(arc.middle, RADIUS + 26);
      const anchor = Math.abs(x - CENTRE_X) < 40 ? "middle" : x > CENTRE_X ? "start" : "end";
      group.append(drawn("text", { x: x.toFixed(1), y: y.toFixed(1), "text-anchor": anchor }, arc.id));
      group.append(drawn("text", { class: "soft", x: x.toFixed(1), y: (y + 13).toFixed(1), "text-anchor": anchor }, `${percent(arc.length)}, ${arc.state}`));
    }
  }
  drawWaiting(group, list);
  drawKey(group, list);
  group.append(drawn("text", { x: CENTRE_X, y: CENTRE_Y + 4, "text-anchor": "middle", class: "soft" }, ring.nodes.length === 1 ? "1 node" : `${ring.nodes.length} nodes, ${ring.redundancy} ${ring.redundancy === 1 ? "copy" : "copies"}`));
  $("#ring > g").replaceWith(group);
  $("#ring-text").textContent = list.map((arc) => `${arc.id} ${arc.state}, ${percent(arc.length)} of the keys${arc.hints_pending ? `, ${number(arc.hints_pending)} keys wait for it` : ""}`).join("; ");
}

// Arrows from here to those who lack something, with how much.
function drawWaiting(group, list) {
  const here = list.find((arc) => arc.id === ring.me);
  for (const arc of list) {
    if (!here || !(arc.hints_pending || arc.dirty_partitions)) continue;
    const [x, y] = at(arc.middle, RADIUS - 14), [fromX, fromY] = at(here.middle, RADIUS - 14);
    const bendX = (x + fromX + CENTRE_X) / 3, bendY = (y + fromY + CENTRE_Y) / 3;
    group.append(drawn("path", { class: "hint", d: `M ${fromX.toFixed(1)} ${fromY.toFixed(1)} Q ${bendX.toFixed(1)} ${bendY.toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)}` }));
    group.append(drawn("circle", { class: "hint-head", cx: x.toFixed(1), cy: y.toFixed(1), r: 5 }));
    const text = arc.hints_pending ? `${number(arc.hints_pending)} keys` : `${number(arc.dirty_partitions)} partitions`;
    group.append(drawn("text", { class: "count", x: bendX.toFixed(1), y: (bendY - 6).toFixed(1), "text-anchor": "middle", "data-waiting": arc.id }, text));
  }
}

function drawKey(group, list) {
  if (!lookedUp) return;
  const [x, y] = at(lookedUp.angle, RADIUS + 16);
  for (const owner of lookedUp.owners) {
    const arc = list.find((each) => each.id === owner.id);
    if (!arc) continue;
    const serves = owner.id === lookedUp.served_by;
    group.append(drawn("path", { class: serves ? "key-line serves" : "key-line", d: `M ${x.toFixed(1)} ${y.toFixed(1)} Q ${CENTRE_X} ${CENTRE_Y} ${point(arc.middle, RADIUS - 10)}`, "data-owner": owner.id }));
  }
  group.append(drawn("circle", { class: "key-dot", cx: x.toFixed(1), cy: y.toFixed(1), r: 6 }));
}

function showMembers() {
  rows($("#members"), ring.nodes.map((each) => [
    each.id === ring.me ? `${each.id} (this)` : each.id,
    { text: each.away_s === null ? each.state : `${each.state} since ${seconds(each.away_s)}`, kind: `state-${stateClass(each.state)}` },
    right(percent(each.share)), each.zone || "-", right(each.links_up), right(each.requests_waiting),
    each.same_view === null ? "not known" : each.same_view ? "yes" : "no",
  ]));
}

// -- plots

const PLOTS = [
  { id: "operations", title: "Commands", unit: "per second", show: number, series: [["gets", (now, then, s) => (now.gets - then.gets) / s], ["stores", (now, then, s) => (now.stores - then.stores) / s]] },
  { id: "hits", title: "Hit ratio", unit: "of gets", show: percent, most: 1, series: [["hits", (now, then) => now.gets > then.gets ? (now.hits - then.hits) / (now.gets - then.gets) : null]] },
  { id: "latency", title: "Time of a command", unit: "upper bound, without the network", show: seconds, series: [["half within", (now, then) => quantile(now, then, 0.5)], ["99 % within", (now, then) => quantile(now, then, 0.99)]] },
  { id: "memory", title: "Memory", unit: "of items and index", show: bytes, series: [["leased", (now) => now.segment_bytes + now.index_bytes], ["limit", (now) => now.memory_limit_bytes]] },
];

// The bound below which this share of the commands between two moments lie.
function quantile(now, then, share) {
  const counts = now.latency.map((count, index) => Math.max(0, count - then.latency[index]));
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let below = 0;
  const index = counts.findIndex((count) => (below += count) >= total * share);
  return 16e-6 * 2 ** Math.min(index, 16);
}

function makePlots() {
  for (const plot of PLOTS) {
    const svg = drawn("svg", { viewBox: "0 0 300 120", role: "img", id: `plot-${plot.id}` });
    const details = element("details", {}, element("summary", {}, `${plot.title} as a table`), element("table", {}, element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "Seconds ago"), ...plot.series.map(([name]) => element("th", { scope: "col" }, name)))), element("tbody")));
    details.addEventListener("toggle", () => showPlot(plot));
    plot.figure = element("figure", {}, element("figcaption"), svg, details);
    $("#plots").append(plot.figure);
  }
}

function showPlot(plot) {
  const [caption, svg, details] = plot.figure.children;
  const values = plot.series.map(([, rate]) => history.slice(1).map((now, index) => {
    const then = history[index], s = (now.unix_ms - then.unix_ms) / 1000;
    const value = s > 0 ? rate(now, then, s) : null;
    return value === null ? null : Math.max(0, value);
  }));
  const last = values.map((list) => list.at(-1) ?? null), shown = (value) => value === null ? "-" : plot.show(value);
  caption.replaceChildren(element("b", {}, plot.title), ` (${plot.unit}): `, ...plot.series.flatMap(([name], index) => [element("span", { className: `series${index}` }, `${index ? "╌" : "━"} ${name}`), ` ${shown(last[index])} `]));
  const most = plot.most ?? (Math.max(0, ...values.flat().filter((value) => value !== null)) || 1);
  const parts = [drawn("title", {}, `${plot.title}, ${plot.unit}: ${plot.series.map(([name], index) => `${name} ${shown(last[index])}`).join(", ")}`)];
  for (const level of [0, 0.5, 1]) parts.push(drawn("path", { class: "axis", d: `M 0 ${110 - 90 * level} H 300` }));
  parts.push(drawn("text", { class: "soft", x: 2, y: 16 }, plot.show(most)), drawn("text", { class: "soft", x: 2, y: 119 }, "5 min ago"), drawn("text", { class: "soft", x: 298, y: 119, "text-anchor": "end" }, "now"));
  values.forEach((list, series) => {
    let d = "", pen = "M";
    list.forEach((value, index) => {
      if (value === null) { pen = "M"; return; }
      d += `${pen} ${(300 - (list.length - 1 - index)).toFixed(0)} ${(110 - 90 * Math.min(1, value / most)).toFixed(1)} `;
      pen = "L";
    });
    parts.push(drawn("path", { class: `line${series}`, d }));
  });
  svg.replaceChildren(...parts);
  if (details.open) {
    const ago = [0, 1, 2, 5, 10, 30, 60, 120, 180, 240, 299].filter((back) => back < values[0].length);
    rows(details.querySelector("table"), ago.map((back) => [back, ...values.map((list) => right(shown(list.at(-1 - back))))]));
  }
}

// -- cores, handoff

function showCores(now, then) {
  const s = then ? (now.unix_ms - then.unix_ms) / 1000 : 0;
  rows($("#cores"), now.cores.map((core, index) => {
    const before = then && then.cores[index], rate = (part) => before && s > 0 ? Math.max(0, (core[part] - before[part]) / s) : 0;
    const busy = Math.min(1, rate("busy_s")), meter = element("progress", { max: 1, value: busy });
    meter.setAttribute("aria-label", `core ${core.core} in turns`);
    const silent = core.silent_ms > 5000;
    return [
      { text: silent ? `${core.core}: silent for ${seconds(core.silent_ms / 1000)}` : core.core, kind: silent ? "state-away" : "" }, right(number(rate("requests"))),
      element("span", {}, meter, ` ${percent(busy)}`), right(core.connections), right(number(core.items)), right(number(rate("crossed"))),
    ];
  }));
}

function showHandoff(now, then) {
  const s = then ? (now.unix_ms - then.unix_ms) / 1000 : 0;
  rows($("#handoff"), now.peers.filter((peer) => peer.id !== (ring && ring.me)).map((peer) => {
    const before = then && then.peers.find((other) => other.id === peer.id);
    const delivered = before && s > 0 ? (before.hints_pending - peer.hints_pending) / s : 0;
    const cleaned = before && s > 0 ? (before.dirty_partitions - peer.dirty_partitions) / s : 0;
    const left = peer.hints_pending + peer.dirty_partitions === 0 ? "-" : peer.away_s !== null ? "when it is back"
      : delivered > 0 || cleaned > 0 ? seconds(Math.max(delivered > 0 ? peer.hints_pending / delivered : 0, cleaned > 0 ? peer.dirty_partitions / cleaned : 0)) : "not known yet";
    return [peer.id, right(number(peer.hints_pending)), right(peer.hints_pending ? seconds(peer.oldest_hint_s) : "-"), right(number(peer.hints_replayed)), right(number(peer.dirty_partitions)), left];
  }));
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function showPartitions(event) {
  event.preventDefault();
  const target = new FormData(event.target).get("target"), text = $("#grid-text");
  $("#grid-figure").hidden = false;
  try {
    const { dirty, partitions } = await ask(`/api/v1/partitions?target=${encodeURIComponent(target)}`);
    const context = $("#grid").getContext("2d"), style = getComputedStyle(document.documentElement);
    const [clean, wanting] = ["--grid", "--bad"].map((name) => style.getPropertyValue(name));
    const set = new Set(dirty);
    for (let partition = 0; partition < partitions; partition += 1) {
      context.fillStyle = set.has(partition) ? wanting : clean;
      context.fillRect(4 * (partition % 64), 4 * Math.floor(partition / 64), 4, 4);
    }
    text.textContent = `${number(dirty.length)} of ${number(partitions)} partitions are to be sent to ${target}; each square is one.`;
  } catch (error) {
    text.textContent = error.message;
  }
}

// -- keys

function lookUp(event) {
  event.preventDefault();
  return showWhere(new FormData(event.target).get("key"));
}

async function showWhere(key) {
  const place = $("#where-answer");
  try {
    lookedUp = await ask(`/api/v1/where?key=${encodeURIComponent(key)}`);
    lookedUp.key = key;
    const owners = lookedUp.owners.map(({ id, state }) => `${id} (${state})`).join(", ");
    place.textContent = `Owned by ${owners}; ${lookedUp.served_by === null ? "nobody" : lookedUp.served_by} answers for it now${lookedUp.partition === undefined ? "" : `; partition ${lookedUp.partition}, bucket ${number(lookedUp.bucket)}`}.`;
  } catch (error) {
    lookedUp = null;
    place.textContent = error.message;
  }
  drawRing();
}

async function inspect(event) {
  event.preventDefault();
  const form = new FormData(event.target), place = $("#key-answer");
  const headers = form.get("token") ? { Authorization: `Bearer ${form.get("token")}` } : {};
  try {
    if (event.submitter && event.submitter.name === "set") {
      const body = JSON.stringify({ key: form.get("key"), value: form.get("value"), ttl_s: Number(form.get("ttl")) });
      await ask("/api/v1/actions/set", { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body });
    }
    const item = await ask(`/api/v1/key?key=${encodeURIComponent(form.get("key"))}`, { headers });
    const facts = `${bytes(item.size_bytes)}, flags ${item.flags}, CAS ${item.cas}, ${item.ttl_s === null ? "never expires" : `expires in ${seconds(item.ttl_s)}`}${item.is_text ? "" : ", as base64"}${item.is_whole ? "" : ", its beginning"}`;
    place.replaceChildren(element("p", {}, facts), element("pre", {}, item.value));
  } catch (error) {
    place.replaceChildren(element("p", {}, error.message));
  }
}

// -- what is asked for when it is opened

async function openLatency() {
  if (!this.open) return;
  const { latencies } = await ask("/api/v1/stats");
  rows(this.querySelector("table"), latencies.map((each) => [each.door, each.operation, right(number(each.count)), right(seconds(each.mean_s)), right(seconds(each.p50_s)), right(seconds(each.p99_s)), right(seconds(each.p999_s))]));
}
async function openSettings() {
  if (!this.open) return;
  const settings = await ask("/api/v1/settings");
  rows(this.querySelector("table"), Object.entries(settings).map(([name, value]) => [name, { text: value, kind: "wrap" }]));
}

// -- the stream

function handleHello(event) {
  ({ node, ring } = JSON.parse(event.data));
  history.length = 0;
  document.title = `pbcache ${node.id}`;
  $("#who").textContent = node.id;
  $("#about").textContent = `Version ${node.version}, speaks as memcached ${node.memcached_version}; ${node.cores} ${node.cores === 1 ? "core" : "cores"} (${node.io}), ${bytes(node.memory.limit_bytes)}; up for ${seconds(node.uptime_s)}; process ${node.pid}, resident ${bytes(node.memory.resident_bytes)}`;
  $("#key-note").textContent = node.keys_shown ? "" : "Keys and values are shown with the node's token only.";
  const knobs = node.tuning.filter((knob) => knob.state !== "not applicable");
  rows($("#tuning"), knobs.map((knob) => [knob.name, { text: knob.state, kind: `state-${knob.state}` }, { text: knob.found, kind: "wrap" }, { text: knob.wanted, kind: "wrap" }]));
  const others = ring.nodes.filter((each) => each.id !== ring.me).map((each) => element("option", {}, each.id));
  $("#partitions select").replaceChildren(...others);
  $("#partitions").hidden = others.length === 0;
  drawRing();
  showMembers();
}

function handleFigures(event) {
  const now = JSON.parse(event.data), then = history.at(-1);
  history.push(now);
  if (history.length > SAMPLES) history.shift();
  const states = () => ring.nodes.map((each) => each.state).join();
  const before = states();
  for (const peer of now.peers) Object.assign(ring.nodes.find((each) => each.id === peer.id) || {}, peer);
  showVerdict(now.verdicts);
  drawRing();
  // Who answers for a key may be another one now.
  if (lookedUp && states() !== before) showWhere(lookedUp.key);
  showMembers();
  PLOTS.forEach(showPlot);
  showCores(now, then);
  showHandoff(now, then);
}

function listen() {
  const stream = new EventSource("/api/v1/events");
  stream.addEventListener("hello", handleHello);
  stream.addEventListener("figures", handleFigures);
  stream.addEventListener("error", () => {
    showVerdict([{ level: "bad", text: "This node does not answer; the figures below are old." }]);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

makePlots();
$("#where").addEventListener("submit", lookUp);
$("#key").addEventListener("submit", inspect);
$("#partitions").addEventListener("submit", showPartitions);
$("#latency").addEventListener("toggle", openLatency);
$("#settings").addEventListener("toggle", openSettings);
listen();
