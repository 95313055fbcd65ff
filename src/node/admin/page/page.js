// The admin page: one stream of events, and what people ask for. No library.
//
//   hello   { node, ring }   once: who this is, who is in the ring, where second copies are
//   figures { .. }           once a second: counters since start, of which this page makes rates
//   nodes   { nodes }        once a second in a ring: what every node of it tells of itself
//
// Everything is put into the page as text, never as markup.

const $ = (selector) => document.querySelector(selector);
const SAMPLES = 300;
const history = [];
let node = null, ring = null, lookedUp = null;
// What the nodes told, and what they told before.
let told = [], toldBefore = [];
// Work that takes long, by who does it for whom: what was left of it second by second.
const work = new Map();

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

// Who keeps how much for whom: what this node knows, and what the others tell.
function pairs() {
  const now = history.at(-1), others = (from, peers) => peers.filter(({ id }) => id !== from).map((peer) => ({ from, peer }));
  const own = now ? others(ring.me, now.peers) : [];
  return own.concat(...told.filter(({ id, report }) => id !== ring.me && report).map(({ id, report }) => others(id, report.peers)));
}

// Arrows to those who lack something, with how much.
function drawWaiting(group, list) {
  for (const { from, peer } of pairs()) {
    const here = list.find((arc) => arc.id === from), arc = list.find((each) => each.id === peer.id);
    if (!here || !arc || !(peer.hints_pending || peer.dirty_partitions)) continue;
    const [x, y] = at(arc.middle, RADIUS - 14), [fromX, fromY] = at(here.middle, RADIUS - 14);
    const bendX = (x + fromX + CENTRE_X) / 3, bendY = (y + fromY + CENTRE_Y) / 3;
    group.append(drawn("path", { class: "hint", d: `M ${fromX.toFixed(1)} ${fromY.toFixed(1)} Q ${bendX.toFixed(1)} ${bendY.toFixed(1)} ${x.toFixed(1)} ${y.toFixed(1)}` }));
    group.append(drawn("circle", { class: "hint-head", cx: x.toFixed(1), cy: y.toFixed(1), r: 5 }));
    const text = peer.hints_pending ? `${number(peer.hints_pending)} keys` : `${number(peer.dirty_partitions)} partitions`;
    group.append(drawn("text", { class: "count", x: bendX.toFixed(1), y: (bendY - 6).toFixed(1), "text-anchor": "middle", "data-waiting": arc.id, "data-from": from }, text));
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

// What is left of some work: the share that is done, and the seconds that the rest takes at the pace of the last seconds.
function progress(name, left, at) {
  if (left === 0) { work.delete(name); return null; }
  const made = work.get(name) ?? { most: 0, samples: [] };
  work.set(name, made);
  made.most = Math.max(made.most, left);
  made.samples.push({ left, at });
  if (made.samples.length > 5) made.samples.shift();
  const [first] = made.samples, pace = (first.left - left) / Math.max(0.001, at - first.at);
  return { done: 1 - left / made.most, s: pace > 0 ? left / pace : null };
}

function showHandoff(now) {
  const all = pairs(), busy = all.filter(({ peer }) => peer.hints_pending || peer.dirty_partitions);
  // Of a large ring, only who has something to bring.
  const shown = all.length > 30 ? busy : all;
  rows($("#handoff"), shown.map(({ from, peer }) => {
    const parts = [["keys", peer.hints_pending], ["partitions", peer.dirty_partitions]].map(([what, left]) => progress(`${from} ${peer.id} ${what}`, left, now.unix_ms / 1000)).filter((part) => part);
    const done = parts.reduce((sum, part) => sum + part.done, 0) / parts.length, meter = element("progress", { max: 1, value: parts.length ? done : 1 });
    meter.setAttribute("aria-label", `brought to ${peer.id} by ${from}`);
    const paced = parts.filter((part) => part.s !== null), known = seconds(Math.ceil(Math.max(...paced.map((part) => part.s))));
    // Partitions may wait until the keys are there.
    const left = parts.length === 0 ? "-" : peer.away_s !== null ? "when it is back" : paced.length === 0 ? "not known yet" : paced.length < parts.length ? `at least ${known}` : known;
    return [peer.id, from, right(number(peer.hints_pending)), right(peer.hints_pending ? seconds(peer.oldest_hint_s) : "-"), right(number(peer.hints_replayed)), right(number(peer.dirty_partitions)), parts.length ? element("span", {}, meter, ` ${percent(done)}`) : "-", left];
  }));
}

function showNodes() {
  rows($("#nodes"), told.map(({ id, trouble, report }) => {
    if (!report) return [id, ...Array(6).fill("-"), { text: trouble ?? "nothing", kind: "state-away wrap" }];
    const then = toldBefore.find((each) => each.id === id)?.report, s = then ? (report.unix_ms - then.unix_ms) / 1000 : 0;
    const rate = (part) => s > 0 ? Math.max(0, (report[part] - then[part]) / s) : 0, gets = rate("gets");
    return [id, right(number(rate("requests"))), right(gets > 0 ? percent(rate("hits") / gets) : "-"), right(number(report.items)), right(`${bytes(report.memory_used_bytes)} of ${bytes(report.memory_limit_bytes)}`),
      right(number(report.connections)), right(seconds(report.uptime_s)), { text: report.verdict.text, kind: report.verdict.level === "bad" ? "state-away wrap" : "wrap" }];
  }));
}

async function ask(path, options) {
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Numbers in a row as one range.
function ranges(list) {
  const found = [];
  for (const number of list) {
    const last = found.at(-1);
    if (last && last[1] === number - 1) last[1] = number;
    else found.push([number, number]);
  }
  return found;
}

async function showPartitions() {
  const target = new FormData($("#partitions")).get("target"), text = $("#grid-text");
  $("#grid-figure").hidden = false;
  try {
    const { dirty, partitions } = await ask(`/api/v1/partitions?target=${encodeURIComponent(target)}`);
    const context = $("#grid").getContext("2d"), style = getComputedStyle(document.documentElement);
    const [clean, wanting] = ["--grid", "--bad"].map((name) => style.getPropertyValue(name));
    const set = new Set(dirty);
    for (let partition = 0; partition < partitions; partition += 1) {
      context.fillStyle = set.has(partition) ? wanting : clean;
      // A gap between two squares, and a smaller one for what is clean: told by more than colour.
      const size = set.has(partition) ? 4 : 2;
      context.clearRect(4 * (partition % 64), 4 * Math.floor(partition / 64), 4, 4);
      context.fillRect(4 * (partition % 64), 4 * Math.floor(partition / 64), size, size);
    }
    text.textContent = `${number(dirty.length)} of ${number(partitions)} partitions are to be sent to ${target}; each square is one, row by row.`;
    rows($("#grid-table"), ranges(dirty).map(([first, last]) => [first === last ? first : `${first} to ${last}`, right(last - first + 1)]));
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

const bearer = () => {
  const token = $("#key input[name=token]").value;
  return token ? { Authorization: `Bearer ${token}` } : {};
};

async function inspect(event) {
  event.preventDefault();
  const form = new FormData(event.target), place = $("#key-answer"), headers = bearer();
  $("#copies").hidden = true;
  try {
    if (event.submitter && event.submitter.name === "set") {
      const body = JSON.stringify({ key: form.get("key"), value: form.get("value"), ttl_s: Number(form.get("ttl")) });
      await ask("/api/v1/actions/set", { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body });
    }
    const item = await ask(`/api/v1/key?key=${encodeURIComponent(form.get("key"))}`, { headers });
    const facts = `${bytes(item.size_bytes)}, flags ${item.flags}, CAS ${item.cas}, ${item.ttl_s === null ? "never expires" : `expires in ${seconds(item.ttl_s)}`}${item.is_text ? "" : ", as base64"}${item.is_whole ? "" : ", its beginning"}`;
    place.replaceChildren(element("p", {}, facts), element("pre", {}, item.value));
    rows($("#copies table"), item.copies.map(({ id, state, serves, trouble, copy }) => [
      `${id}${serves ? " (answers)" : ""}`, { text: trouble ?? (copy ? copy.is_deleted ? "deleted" : copy.is_stale ? "stale" : state : "has none"), kind: trouble ? "state-away" : "" },
      copy ? new Date(copy.written_unix_ms).toLocaleTimeString() : "-", right(copy ? bytes(copy.size_bytes) : "-"), right(copy ? copy.ttl_s === null ? "never" : seconds(copy.ttl_s) : "-"), right(copy ? copy.version : "-"),
    ]));
    $("#copies").hidden = false;
    showWhere(form.get("key"));
  } catch (error) {
    place.replaceChildren(element("p", {}, error.message));
  }
}

// -- what is asked for when it is opened

const OPENED = {
  latency: async (table) => {
    const { latencies } = await ask("/api/v1/stats");
    rows(table, latencies.map((each) => [each.door, each.operation, right(number(each.count)), right(seconds(each.mean_s)), right(seconds(each.p50_s)), right(seconds(each.p99_s)), right(seconds(each.p999_s))]));
  },
  slow: async (table) => {
    const { least_ms, count, requests } = await ask("/api/v1/slow");
    rows(table, requests.map((each) => [new Date(each.unix_ms).toLocaleTimeString(), right(seconds(each.took_s)), each.operation === null ? each.what : `${each.what}: ${each.door} ${each.operation}`, right(each.commands), right(each.core), each.client ?? "-", each.owners.join(", ") || "-"]));
    return least_ms === 0 ? "--slow_ms 0 remembers none." : `${number(count)} took longer than ${least_ms} ms since the start.`;
  },
  top: async (table) => {
    const { samples, keys } = await ask("/api/v1/top", { headers: bearer() });
    rows(table, keys.map((each) => [{ text: each.is_text ? each.key : `base64 ${each.key}`, kind: "wrap" }, right(`${percent(each.share)}${each.share_most > each.share ? ` to ${percent(each.share_most)}` : ""}`), right(percent(each.reads)), right(each.core)]));
    return `From ${number(samples)} commands of the last minutes.`;
  },
  memory: async (table) => {
    const { sampled, items, classes } = await ask("/api/v1/memory");
    rows(table, classes.map((each) => [each.name, right(number(each.items)), right(bytes(each.bytes))]));
    return `From ${number(sampled)} of ${number(items)} items.`;
  },
  settings: async (table) => {
    const settings = await ask("/api/v1/settings");
    rows(table, Object.entries(settings).map(([name, value]) => [name, { text: value, kind: "wrap" }]));
  },
};

async function fill(details) {
  const note = details.querySelector("p");
  try {
    const text = await OPENED[details.id](details.querySelector("table"));
    if (note) note.textContent = text;
  } catch (error) {
    if (note) note.textContent = error.message;
  }
}

// What is open is asked for again once in a while, but not by a page that nobody sees.
setInterval(() => {
  if (document.hidden) return;
  for (const id of ["latency", "slow", "top"]) if ($(`#${id}`).open) fill($(`#${id}`));
  if (!$("#grid-figure").hidden) showPartitions();
}, 3000);

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
  $("#partitions").hidden = $("#nodes-section").hidden = others.length === 0;
  showVerdict(node.verdicts);
  performance.mark("usable");
  drawRing();
  showMembers();
}

function handleNodes(event) {
  [toldBefore, told] = [told, JSON.parse(event.data).nodes];
  showNodes();
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
  showHandoff(now);
}

function listen() {
  const stream = new EventSource("/api/v1/events");
  stream.addEventListener("hello", handleHello);
  stream.addEventListener("figures", handleFigures);
  stream.addEventListener("nodes", handleNodes);
  stream.addEventListener("error", () => {
    showVerdict([{ level: "bad", text: "This node does not answer; the figures below are old." }]);
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

listen();
makePlots();
$("#where").addEventListener("submit", lookUp);
$("#key").addEventListener("submit", inspect);
$("#partitions").addEventListener("submit", (event) => { event.preventDefault(); showPartitions(); });
for (const id of Object.keys(OPENED)) $(`#${id}`).addEventListener("toggle", ({ target }) => target.open && fill(target));
