"use strict";
// The dashboard of one member. Whatever a client has named is put into the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const SAMPLES_MAX = 3600;
const EVENTS_MAX = 200;
const PAGE_KEYS = 500;
const RATE_SCRAPES = 6;

let fields = {};        // name of a field → its place in a sample
let samples = [];       // the last hour, the newest last
let first = 0;          // number of samples[0]
let series = {};        // the newest scrape
let before = null;      // one of a few seconds before, for rates: {at, series}
let scrapes = [];       // those between
let self = "";          // this member's id, hexadecimal
let token = null;       // never stored anywhere
let range = 120;
let gateway = true;
let members = [];
let status = null;
let hover = null;       // {chart, x}

// ---- text ----
const el = (tag, text, className) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};
const row = (...cells) => {
  const made = el("tr");
  for (const cell of cells) made.append(cell instanceof Node ? cell : el("td", cell));
  return made;
};
const number = (value, digits = 0) => value === null || value === undefined || !isFinite(value) ? "–"
  : value >= 1e6 ? (value / 1e6).toFixed(2) + " M" : value >= 1e4 ? (value / 1e3).toFixed(1) + " k"
  : value.toFixed(value < 10 && value !== Math.round(value) ? Math.max(digits, 1) : digits);
const ms = (value) => value === null || value === undefined ? "–" : value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0);
const bytes = (value) => {
  if (!isFinite(value)) return "–";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return (value / size).toFixed(value < 10 * size ? 2 : 1) + " " + unit;
  }
  return value + " B";
};
const gauge = (name) => {
  const found = series[name];
  return found ? found.reduce((sum, sample) => sum + sample[sample.length - 1], 0) : NaN;
};
const label = (name) => series[name] && series[name][0] ? series[name][0][0] : "";
const last = (field) => samples.length ? samples[samples.length - 1][fields[field]] : null;
/// Replaces a table's rows only when their text differs, so that a selection stays.
const fill = (body, rows, empty) => {
  if (!rows.length) rows = [row(el("td", empty, "note"))];
  const text = rows.map((made) => made.className + made.textContent).join("\n");
  if (body.dataset.text === text) return;
  body.dataset.text = text;
  body.replaceChildren(...rows);
};

// ---- charts ----
const MIB = 1 / 2 ** 20;
const charts = [
  { id: "latency", unit: " ms", lines: [["p99", "b", (s) => s[fields.commit_p99]], ["p50", "a", (s) => s[fields.commit_p50]],
    ["sync p99", "d", (s) => s[fields.sync_p99]], ["sync p50", "c", (s) => s[fields.sync_p50]]] },
  { id: "parts", unit: " ms", stacked: true, lines: [["sync", "c", (s) => part(s, "sync")], ["quorum", "a", (s) => part(s, "quorum")],
    ["apply", "b", (s) => s[fields.apply_mean]]] },
  { id: "rates", unit: "/s", lines: [["puts", "a", (s) => s[fields.puts]], ["reads", "c", (s) => s[fields.reads]], ["events", "b", (s) => s[fields.events]]] },
  { id: "busy", unit: " %", least: 100, lines: [["busiest", "a", (s) => times(s[fields.busy], 100)]] },
  { id: "waiting", unit: "", least: 4, lines: [["messages", "d", (s) => s[fields.waiting]]] },
  { id: "size", unit: " MiB", lines: [["held", "a", (s) => times(s[fields.db], MIB)], ["in use", "c", (s) => times(s[fields.db_in_use], MIB)]] },
  { id: "clients", unit: "", least: 4, lines: [["connections", "a", (s) => s[fields.connections]], ["watchers", "b", (s) => s[fields.watchers]], ["leases", "c", (s) => s[fields.leases]]] },
];
const times = (value, factor) => value === null ? null : value * factor;
/// A commit lasts as long as the slower of the own sync and of the quorum: what goes beyond the sync is the quorum's.
const part = (s, name) => {
  const sync = s[fields.sync_mean], commit = s[fields.commit_mean];
  if (name === "sync") return commit === null ? sync : sync === null ? null : Math.min(sync, commit);
  return commit === null || sync === null ? null : Math.max(0, commit - sync);
};
const nice = (max) => {
  const power = 10 ** Math.floor(Math.log10(max));
  return [1, 1.5, 2, 3, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= max);
};
const draw = (chart) => {
  const canvas = $(chart.id), style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue("--" + name).trim();
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "11px system-ui, sans-serif";
  const left = 44, right = 8, top = 22, bottom = 18;
  const shown = samples.slice(-range), inner = width - left - right, tall = height - top - bottom;
  const rows = shown.map((sample) => {
    let below = 0;
    return chart.lines.map(([, , take]) => {
      const value = take(sample);
      if (!chart.stacked) return value;
      if (value !== null) below += value;
      return value === null && !below ? null : below;
    });
  });
  let max = chart.least || 0;
  for (const values of rows) for (const value of values) if (value > max) max = value;
  max = nice(max || 1);
  const x = (at) => left + inner * (range - shown.length + at) / Math.max(1, range - 1);
  const y = (value) => top + tall * (1 - value / max);
  g.textBaseline = "middle";
  for (let step = 0; step <= 4; step++) {
    const value = max * step / 4;
    g.fillStyle = color("grid");
    g.fillRect(left, Math.round(y(value)), inner, 1);
    g.fillStyle = color("soft");
    g.textAlign = "right";
    g.fillText(max < 0.1 ? value.toFixed(3) : max < 1 ? value.toFixed(2) : number(value, max < 4 ? 1 : 0), left - 6, y(value));
  }
  g.textBaseline = "alphabetic";
  for (const [fraction, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
    g.textAlign = align;
    const ago = Math.round(range * (1 - fraction));
    g.fillText(ago ? (ago >= 60 ? "−" + ago / 60 + " min" : "−" + ago + " s") : "now", left + inner * fraction, height - 4);
  }
  for (let line = chart.lines.length - 1; line >= 0; line--) {
    const [, name] = chart.lines[line];
    g.strokeStyle = g.fillStyle = color(name);
    g.lineWidth = 1.5;
    g.lineJoin = "round";
    let run = [];
    const flush = () => {
      if (!run.length) return;
      g.beginPath();
      run.forEach(([px, py], at) => at ? g.lineTo(px, py) : g.moveTo(px, py));
      if (run.length === 1) g.arc(run[0][0], run[0][1], 1, 0, 7);
      g.stroke();
      if (chart.stacked || chart.lines.length === 1) {
        g.lineTo(run[run.length - 1][0], y(0));
        g.lineTo(run[0][0], y(0));
        g.globalAlpha = chart.stacked ? 0.45 : 0.15;
        g.fill();
        g.globalAlpha = 1;
      }
      run = [];
    };
    rows.forEach((values, at) => {
      const value = values[line];
      if (value === null || value === undefined) flush(); else run.push([x(at), y(value)]);
    });
    flush();
  }
  // The names of the lines, with the newest number or the one under the pointer.
  let at = shown.length - 1;
  if (hover && hover.chart === chart && shown.length) {
    at = Math.round((hover.x - left) / inner * (range - 1) - (range - shown.length));
    at = Math.max(0, Math.min(shown.length - 1, at));
    g.fillStyle = color("soft");
    g.fillRect(Math.round(x(at)), top, 1, tall);
  }
  let place = left;
  g.textAlign = "left";
  const told = (unit) => chart.lines.map(([title, , take]) => {
    const value = shown.length ? take(shown[at]) : null;
    return title + " " + (value === null || value === undefined ? "–" : (chart.unit === " ms" ? ms(value) : number(value, chart.id === "size" ? 1 : 0)) + unit);
  });
  const wide = (texts) => texts.reduce((sum, text) => sum + g.measureText(text).width + 27, left - 27);
  let legend = told(chart.unit);
  if (wide(legend) > width) legend = told("");
  if (wide(legend) > width) place = 4;
  for (const [line, [, name]] of chart.lines.entries()) {
    g.fillStyle = color(name);
    g.fillRect(place, 6, 9, 9);
    g.fillStyle = color("text");
    g.fillText(legend[line], place + 13, 14);
    place += g.measureText(legend[line]).width + (place < left || width < 420 ? 22 : 27);
  }
  if (hover && hover.chart === chart && shown.length) {
    const ago = shown.length - 1 - at;
    g.fillStyle = color("soft");
    g.textAlign = "right";
    if (place < width - 70) g.fillText(ago ? ago + " s ago" : "now", width - right, 14);
  }
};
let drawing = false;
const redraw = () => {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; charts.forEach(draw); });
};
for (const chart of charts) {
  $(chart.id).addEventListener("pointermove", (event) => {
    hover = { chart, x: event.offsetX };
    redraw();
  });
  $(chart.id).addEventListener("pointerleave", () => { hover = null; redraw(); });
}

// ---- numbers and tables ----
const TILES = [
  ["puts/s", () => number(last("puts"))],
  ["reads/s", () => number(last("reads"))],
  ["events/s", () => number(last("events"))],
  ["commit p99", () => last("commit_p99") === null ? "–" : ms(last("commit_p99")) + " ms"],
  ["busiest core", () => last("busy") === null ? "–" : Math.round(last("busy") * 100) + " %"],
  ["database", () => last("db") === null ? "–" : bytes(last("db"))],
  ["connections", () => number(last("connections"))],
  ["watchers", () => number(last("watchers"))],
  ["leases", () => number(last("leases"))],
];
const tiles = TILES.map(([title]) => {
  const tile = el("div", undefined, "tile"), value = el("b", "–");
  tile.append(value, el("span", title));
  $("tiles").append(tile);
  return value;
});
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const hex = (id) => BigInt(id).toString(16);
const nameOf = (id) => {
  const found = members.find((member) => member.id === id);
  return found && found.name ? found.name : id;
};
const heaviest = (name, unescape) => {
  if (!before || !series[name]) return [];
  const old = new Map((before.series[name] || []).map(([key, count]) => [key, count]));
  const seconds = Math.max(0.5, (now - before.at) / 1000);
  return series[name].filter(([key]) => old.has(key)).map(([key, count]) => [key, (count - old.get(key)) / seconds])
    .filter(([, rate]) => rate > 0).sort((a, b) => b[1] - a[1]).slice(0, 12)
    .map(([key, rate]) => row(key === "" ? "(no prefix)" : key, el("td", number(rate, 1), "n")));
};
let now = 0;
const show = (slow) => {
  tiles.forEach((tile, at) => put(tile, TILES[at][1]()));
  const role = gauge("etcd_server_is_leader") ? "leader" : gauge("etcd_server_has_leader") ? "follower" : "no leader";
  put($("role"), gauge("etcd_server_is_learner") ? "learner" : role);
  $("role").className = "badge " + (role === "no leader" ? "bad" : "good");
  put($("who"), nameOf(self) + " · " + (label("pinion_build_info") || ""));
  document.title = nameOf(self) + " – Pinion";
  const alarms = (series.etcd_debugging_server_alarms || []).filter((alarm) => alarm[2]);
  $("alarms").hidden = !alarms.length;
  put($("alarms"), alarms.map(([id, kind]) => kind + " of " + nameOf(id)).join(", "));
  const leader = status && status.leader !== "0" ? hex(status.leader || 0) : "";
  put($("latency-note"), role === "leader" ? "p50 and p99 of this leader, ms" : leader && leader !== "0" ? nameOf(leader) + " leads; its own dashboard has its commits" : "nobody leads");
  const active = new Map((series.etcd_network_active_peers || []).map(([, id, up]) => [id, up]));
  const lag = new Map((series.pinion_follower_lag_entries || []).map(([id, count]) => [id, count]));
  fill($("members"), members.map((member) => {
    const isSelf = member.id === self, up = isSelf || active.get(member.id) === 1;
    const urls = el("td");
    for (const url of member.urls) {
      const link = el("a", url);
      if (/^https?:\/\//.test(url)) { link.href = url.replace(/\/$/, "") + "/dashboard"; link.rel = "noreferrer"; }
      urls.append(link, " ");
    }
    const made = row(member.name || member.id, member.learner ? "learner" : member.id === leader ? "leader" : "follower",
      isSelf ? "this member" : up ? "reached" : "not reached", el("td", lag.has(member.id) ? number(lag.get(member.id)) : isSelf ? number(gauge("pinion_apply_lag_entries")) : "–", "n"), urls);
    if (!up) made.className = "bad";
    return made;
  }), gateway ? "not known yet" : "the gateway is off (--enable-grpc-gateway), so members and keys are not shown");
  fill($("prefixes"), heaviest("pinion_load_by_prefix_requests_total"), series.pinion_role_up ? "none, or rights are asked for" : "");
  fill($("addresses"), heaviest("pinion_load_by_address_requests_total"), "none, or rights are asked for");
  fill($("facts"), [
    ["id", self], ["release", label("pinion_build_info")], ["API of etcd", label("etcd_server_version")],
    ["revision", gauge("etcd_debugging_mvcc_current_revision")], ["compacted below", gauge("etcd_debugging_mvcc_compact_revision") > 0 ? gauge("etcd_debugging_mvcc_compact_revision") : "–"],
    ["keys", gauge("etcd_debugging_mvcc_keys_total")], ["log index, committed", gauge("etcd_server_proposals_committed_total")],
    ["behind it, not applied", gauge("pinion_apply_lag_entries")], ["database", bytes(gauge("etcd_mvcc_db_total_size_in_bytes")) + " of " + bytes(gauge("etcd_server_quota_backend_bytes"))],
    ["newest checkpoint", bytes(gauge("pinion_checkpoint_bytes"))], ["leaders seen", gauge("etcd_server_leader_changes_seen_total")],
    ["slow watchers", gauge("etcd_debugging_mvcc_slow_watcher_total")], ["watch streams", gauge("etcd_debugging_mvcc_watch_stream_total")],
  ].map(([title, value]) => row(title, el("td", String(value), "n"))), "");
  const cores = [];
  const busyBefore = new Map((before ? before.series.pinion_core_busy_seconds_total || [] : []).map(([core, roles, s]) => [core + roles, s]));
  for (const [core, roles, seconds] of series.pinion_core_busy_seconds_total || []) {
    const old = busyBefore.get(core + roles);
    const share = old === undefined || !before ? "–" : Math.round(Math.max(0, (seconds - old) / Math.max(0.5, (now - before.at) / 1000)) * 100) + " % busy";
    cores.push(row((core === "any" ? "any core" : "core " + core) + ": " + roles, el("td", share, "n")));
  }
  for (const [to, count] of series.pinion_ring_messages || []) cores.push(row("waiting for " + to, el("td", number(count), "n")));
  for (const [name, up] of series.pinion_role_up || []) {
    if (!up) { const made = row(name, el("td", "does not answer", "n")); made.className = "bad"; cores.push(made); }
  }
  fill($("cores"), cores, "");
  fill($("slow"), (slow || []).map(([at, name, took, queued, waited]) => row(new Date(at).toLocaleTimeString(), name,
    el("td", took + " ms", "n"), queued ? queued + " ms in its connection's queue" : "", "waited for " + waited)), "none since the start, or none told");
};

// ---- asking ----
const headers = () => token ? { Authorization: token } : {};
const ask = async (path, body, signal) => {
  const answer = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  if (answer.ok) return answer;
  let told = {};
  try { told = await answer.json(); } catch (_) { /* no JSON */ }
  throw new Error(told.message || told.error || "HTTP " + answer.status);
};
const lines = async function* (answer) {
  const reader = answer.body.getReader(), decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const found = rest.split("\n");
    rest = found.pop();
    for (const line of found) if (line) yield JSON.parse(line);
  }
};
const askMembers = async () => {
  if (!gateway) return;
  try {
    status = await (await ask("/v3/maintenance/status", {})).json();
    const list = await (await ask("/v3/cluster/member/list", { linearizable: false })).json();
    members = (list.members || []).map((member) => ({ id: hex(member.ID), name: member.name || "", learner: !!member.isLearner, urls: member.clientURLs || [] }));
  } catch (_) { /* the stream tells what is wrong */ }
};
const onLine = (line) => {
  if (line.fields) {
    fields = Object.fromEntries(line.fields.map((name, at) => [name, at]));
    samples = [];
    scrapes = [];
    self = line.member;
    gateway = line.gateway;
    $("browser").hidden = !gateway;
    return;
  }
  samples.push(...line.samples);
  if (samples.length > SAMPLES_MAX) samples.splice(0, samples.length - SAMPLES_MAX);
  first = line.first + line.samples.length - samples.length;
  if (line.series) {
    series = line.series;
    now = line.now_ms;
    scrapes.push({ at: now, series });
    if (scrapes.length > RATE_SCRAPES) scrapes.shift();
    before = scrapes.length > 1 ? scrapes[0] : null;
    show(line.slow);
  }
  redraw();
};
const login = () => new Promise((resolve) => {
  const dialog = $("login");
  if (!dialog.open) dialog.showModal();
  $("login-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      const answer = await ask("/v3/auth/authenticate", { name: $("login-name").value, password: $("login-password").value });
      token = (await answer.json()).token;
      $("login-password").value = "";
      put($("login-note"), "");
      dialog.close();
      resolve();
    } catch (error) {
      token = null;
      put($("login-note"), error.message);
    }
  };
});
$("login").addEventListener("cancel", (event) => event.preventDefault());
const link = (text, good) => {
  put($("link"), text);
  $("link").className = "badge " + (good ? "good" : "bad");
};
const follow = async () => {
  let pause = 500;
  for (;;) {
    try {
      const answer = await fetch("/dashboard/live", { headers: headers() });
      if (answer.status === 401) {
        token = null;
        link("log in", false);
        await login();
        continue;
      }
      if (!answer.ok) throw new Error(answer.status === 429 ? "too many look" : "HTTP " + answer.status);
      await askMembers();
      for await (const line of lines(answer)) {
        pause = 500;
        link("live", true);
        onLine(line);
      }
      link("ended, asking again", false);
    } catch (error) {
      link(error instanceof TypeError ? "not reached" : error.message, false);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(5000, pause * 2);
  }
};

// ---- keys ----
// Keys are bytes: what is no text is shown as \xNN, and typed so.
const toText = (raw) => {
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(raw);
  } catch (_) {
    return Array.from(raw, (byte) => byte >= 32 && byte < 127 && byte !== 92 ? String.fromCharCode(byte) : "\\x" + byte.toString(16).padStart(2, "0")).join("");
  }
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
};
const toBytes = (text) => new TextEncoder().encode(text);
const decode = (base64) => Uint8Array.from(atob(base64 || ""), (c) => c.charCodeAt(0));
const encode = (raw) => btoa(Array.from(raw, (byte) => String.fromCharCode(byte)).join(""));
const end = (prefix) => {
  const raw = Uint8Array.from(prefix);
  for (let at = raw.length - 1; at >= 0; at--) if (raw[at] < 255) { raw[at]++; return raw.slice(0, at + 1); }
  return Uint8Array.of(0);
};
const join = (...parts) => Uint8Array.from(parts.flatMap((part) => Array.from(part)));
let prefix = new Uint8Array(0);
let chosen = null;
let watching = null;
let asked = 0;
const browse = async (to) => {
  prefix = to;
  $("prefix").value = toText(prefix);
  const turn = ++asked;
  put($("browse-note"), "");
  const found = [];
  try {
    // One question finds a key, or a directory that is then jumped over.
    let from = prefix, more = true;
    const stop = end(prefix);
    while (more && found.length < PAGE_KEYS) {
      const answer = await (await ask("/v3/kv/range", { key: encode(from.length ? from : Uint8Array.of(0)), range_end: encode(stop), limit: "100", keys_only: true })).json();
      if (turn !== asked) return;
      const kvs = answer.kvs || [];
      more = !!answer.more;
      let directory = null;
      for (const kv of kvs) {
        const key = decode(kv.key), rest = key.slice(prefix.length);
        if (directory && directory.every((byte, at) => key[at] === byte)) continue;
        directory = null;
        const slash = rest.indexOf(47, rest.length && rest[0] === 47 ? 1 : 0);
        if (slash >= 0 && slash < rest.length - 1) {
          directory = key.slice(0, prefix.length + slash + 1);
          found.push({ directory });
        } else {
          found.push({ key, kv });
        }
        from = join(key, [0]);
      }
      if (directory) from = end(directory);
      if (directory && !kvs.length) more = false;
      if (!kvs.length) break;
    }
    put($("browse-note"), found.length >= PAGE_KEYS ? "the first " + found.length + "; a longer prefix shows others" : found.length ? "" : "no key begins so");
  } catch (error) {
    if (turn !== asked) return;
    put($("browse-note"), error.message);
  }
  $("list").replaceChildren(...found.map((entry) => {
    const item = el("li"), button = el("button");
    const raw = entry.directory || entry.key;
    button.append(el("span", toText(raw.slice(prefix.length)) || toText(raw), entry.directory ? "dir" : ""));
    if (entry.kv) button.append(el("i", "v" + (entry.kv.version || 0)));
    button.onclick = () => {
      if (entry.directory) return browse(entry.directory);
      for (const other of $("list").querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
      button.setAttribute("aria-current", "true");
      choose(entry.key);
    };
    item.append(button);
    return item;
  }));
};
const choose = async (key) => {
  stopWatching();
  chosen = key;
  $("key").hidden = false;
  $("events").replaceChildren();
  put($("key-name"), toText(key));
  try {
    const answer = await (await ask("/v3/kv/range", { key: encode(key) })).json();
    if (chosen === key) showKey(answer.kvs ? answer.kvs[0] : null);
  } catch (error) {
    put($("key-facts"), error.message);
    put($("value"), "");
  }
};
const VALUE_SHOWN = 65536;
const showKey = (kv) => {
  if (!kv) {
    put($("key-facts"), "deleted");
    return put($("value"), "");
  }
  const raw = decode(kv.value);
  put($("key-facts"), raw.length + " bytes, version " + kv.version + ", created at " + kv.create_revision + ", changed at " + kv.mod_revision +
    (kv.lease && kv.lease !== "0" ? ", lease " + BigInt(kv.lease).toString(16) : "") + (raw.length > VALUE_SHOWN ? "; its beginning" : ""));
  put($("value"), toText(raw.slice(0, VALUE_SHOWN)));
};
const event = (text) => {
  const list = $("events");
  list.prepend(el("li", text));
  while (list.childElementCount > EVENTS_MAX) list.lastElementChild.remove();
};
const tell = (change) => {
  const kv = change.kv || {}, raw = decode(kv.value);
  const isDelete = change.type === "DELETE";
  event("@" + (kv.mod_revision || 0) + (isDelete ? "  deleted" : "  " + toText(raw.slice(0, 200)) + (raw.length > 200 ? " …" : "")));
  return isDelete ? null : kv;
};
const stopWatching = () => {
  if (watching) watching.abort();
  watching = null;
  $("watch").setAttribute("aria-pressed", "false");
};
/// The key's changes from a revision on; of the past, until `until`.
const changes = async (key, from, until, signal, live) => {
  const answer = await ask("/v3/watch", { create_request: { key: encode(key), start_revision: String(from), progress_notify: true } }, signal);
  for await (const line of lines(answer)) {
    if (line.error) throw new Error(line.error.message || "the watch has ended");
    const result = line.result || {};
    if (result.compact_revision && result.compact_revision !== "0") return Number(result.compact_revision);
    if (result.canceled) throw new Error(result.cancel_reason || "the watch has ended");
    for (const change of result.events || []) {
      if (chosen !== key) return 0;
      const kv = tell(change);
      if (live) showKey(kv);
      if (until && Number((change.kv || {}).mod_revision) >= until) return 0;
    }
  }
  return 0;
};
const begin = async (live) => {
  const key = chosen;
  if (!key) return;
  const had = watching && live;
  stopWatching();
  if (had) return;
  const control = watching = new AbortController();
  $("events").replaceChildren();
  try {
    const answer = await (await ask("/v3/kv/range", { key: encode(key) }, control.signal)).json();
    const kv = answer.kvs ? answer.kvs[0] : null, revision = Number(answer.header.revision);
    if (live) {
      $("watch").setAttribute("aria-pressed", "true");
      event("from revision " + (revision + 1));
      await changes(key, revision + 1, 0, control.signal, true);
    } else if (kv) {
      let from = Number(kv.create_revision);
      const compacted = await changes(key, from, Number(kv.mod_revision), control.signal, false);
      if (compacted) {
        event("compacted before " + compacted);
        await changes(key, Math.max(from, compacted), Number(kv.mod_revision), control.signal, false);
      }
    } else {
      event("deleted: its history begins with its next life");
    }
  } catch (error) {
    if (error.name !== "AbortError") event(error.message);
  }
  control.abort();
  if (watching === control) stopWatching();
};
$("history").onclick = () => begin(false);
$("watch").onclick = () => begin(true);
$("reload").onclick = () => browse(prefix);
const up = () => {
  const at = prefix.lastIndexOf(47, prefix.length - 2);
  browse(prefix.slice(0, at + 1));
};
$("up").onclick = up;
$("prefix").addEventListener("change", () => browse(toBytes($("prefix").value)));

// ---- keyboard, theme, time ----
const setRange = (seconds) => {
  range = seconds;
  for (const button of document.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", String(Number(button.dataset.range) === seconds));
  redraw();
};
for (const button of document.querySelectorAll("[data-range]")) button.onclick = () => setRange(Number(button.dataset.range));
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const setTheme = (isDark) => {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  redraw();
};
dark.addEventListener("change", () => setTheme(dark.matches));
setTheme(dark.matches);
const toggleTheme = () => setTheme(document.documentElement.dataset.theme !== "dark");
$("theme").onclick = toggleTheme;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = event.target instanceof HTMLInputElement;
  if (event.key === "Escape" && !$("login").open) { if (isTyping) event.target.blur(); else up(); return; }
  if (isTyping) return;
  if (event.key === "1") setRange(120);
  else if (event.key === "2") setRange(600);
  else if (event.key === "3") setRange(3600);
  else if (event.key === "t") toggleTheme();
  else if (event.key === "/") { event.preventDefault(); $("prefix").focus(); $("prefix").select(); }
});
new ResizeObserver(redraw).observe(document.body);
setInterval(askMembers, 5000);
let browsed = false;
const firstLook = setInterval(() => {
  if (!samples.length || browsed || !gateway) return;
  browsed = true;
  clearInterval(firstLook);
  browse(new Uint8Array(0));
}, 500);
follow();
