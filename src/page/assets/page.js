// Asks the server once a second and shows what it says. Names are users' own: they are put in as
// text and never as markup.

import { draw } from "./chart.js";
import { Store, latest, share } from "./series.js";

const STYLES = 8;
const DOWN = ["STALLED", "BROKEN", "GONE"];
/// Seconds that an accuracy on a chart is over.
const SCORED_OVER = 10;
/// Rows that it needs: the share of one or two is no accuracy.
const SCORED_LEAST = 5;

const $ = (id) => document.getElementById(id);
const store = new Store();
let run = null;
let search = "";
let wake = null;
let lostAt = null;

// What is shown.

function show(answer) {
  const { server, applications, application, containers, history } = answer;
  store.take(history);
  setText($("server"), `version ${server.version}, front end ${server.instance}, up ${span(server.uptime_s)}`);
  showDown(answer);
  showApplications(applications, application);
  showApplication(application);
  showContainers(containers);
  showCache(answer);
  showEvents(answer.events);
}

function showDown({ down, containers }) {
  const ready = containers.shown.filter((container) => container.state === "READY").length;
  const many = containers.total === 1 ? "1 container" : `${count(containers.total)} containers`;
  $("up").hidden = down.length > 0 || ready === 0;
  setText($("up"), `Nothing is down: ${many} ready.`);
  keyed($("down"), down, (item) => item.what, () => element("li"), (item, { what, state, reason, since_ms }) => {
    const since = since_ms ? `, since ${clock(since_ms)}` : "";
    setText(item, `${what}: ${state}${since}${reason ? `: ${reason}` : ""}`);
  });
}

function showApplications({ total, matching, shown }, selected) {
  $("no-applications").hidden = total > 0;
  $("some-applications").hidden = total === 0;
  setText($("matching"), matching > shown.length
    ? `${count(matching)} of ${count(total)} match; the busiest ${shown.length} are shown`
    : `${count(matching)} of ${count(total)} match`);
  keyed($("applications"), shown, (row) => row.name, applicationRow, (element, row) => {
    const [name, ...cells] = element.children;
    const current = row.name === selected?.name;
    element.classList.toggle("selected", current);
    const link = name.firstChild;
    setText(link, row.name);
    if (current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    const late = row.p99_ms !== null && row.p99_ms > row.objective_ms;
    setCells(cells, [
      row.task,
      row.policy + (row.shadow ? `, shadow ${row.shadow}` : ""),
      row.replies_per_s === null ? "–" : perSecond(row.replies_per_s),
      orNone(row.p50_ms, ms),
      late ? `${ms(row.p99_ms)}, late` : orNone(row.p99_ms, ms),
      ms(row.objective_ms),
      orNone(row.accuracy, percent),
      count(row.in_flight),
    ]);
    cells[4].classList.toggle("bad", late);
  });
}

function applicationRow(row) {
  const link = element("a");
  link.href = `#${encodeURIComponent(row.name)}`;
  const head = element("th", "wrap");
  head.scope = "row";
  head.append(link);
  const cells = ["", "", "number", "number", "number", "number", "number", "number"];
  const line = element("tr");
  line.append(head, ...cells.map((style) => element("td", style)));
  return line;
}

function showApplication(application) {
  const asked = asks();
  $("application").hidden = !application && asked === null;
  if (!application) {
    if (asked === null) return;
    setText($("application-title"), `Application ${asked}`);
    $("not-ready").hidden = false;
    setText($("not-ready"), "It is not served here (any more). The list above shows those that are.");
  }
  for (const part of $("application").children) {
    if (!["application-title", "not-ready"].includes(part.id)) part.hidden = !application;
  }
  if (!application) return;
  setText($("application-title"), `Application ${application.name}`);
  $("not-ready").hidden = application.not_ready === null;
  setText($("not-ready"), `Not ready: ${application.not_ready ?? ""}.`);
  const points = store.points;
  const replied = latest(share(points.in_time ?? [], total(points), SCORED_OVER));
  facts($("application-facts"), [
    ["Task", application.task],
    ["Policy", application.policy + (application.shadow ? `, shadow ${application.shadow}` : "")],
    ["Objective", ms(application.objective_ms)],
    ["p50, last 10 s", orNone(application.p50_ms, ms)],
    ["p99, last 10 s", orNone(application.p99_ms, ms)],
    ["Answered in time, last 10 s", orNone(replied, percent)],
    ["Accuracy, last 30 s", orNone(application.accuracy, percent)],
    ["In flight", `${count(application.in_flight)} of at most ${count(application.max_in_flight)}`],
    ["Replies so far", counts(application.replies)],
    ["Feedback so far", counts(application.feedback)],
    ["Declared", application.declared_in ? `in ${application.declared_in}` : "by PutApplication"],
  ]);
  showCurves(application);
  showArms(application);
  showReplicas();
}

function total(points) {
  const { answered = [], partial, default: defaults, refused } = points;
  return answered.map((value, at) =>
    (value ?? 0) + (partial[at] ?? 0) + (defaults[at] ?? 0) + (refused[at] ?? 0));
}

function showCurves(application) {
  const { times, points } = store;
  const arms = [...store.arms].map(([name, points], at) => ({ name, style: style(at), points }));
  // The greatest weights now, where there are more than can be told apart.
  const shown = arms.length <= STYLES ? arms : arms
    .toSorted((a, b) => (latest(b.points.weight) ?? 0) - (latest(a.points.weight) ?? 0))
    .slice(0, STYLES).map((arm, at) => ({ ...arm, style: style(at) }));
  const some = shown.length < application.arms.length
    ? `, the ${shown.length} greatest of ${application.arms.length}` : "";
  draw($("weights"), {
    title: `Weight by arm${some}`, times, most: 1, say: hundredths,
    lines: shown.map(({ name, style, points }) => ({ name, style, values: points.weight })),
  });
  const accuracy = (points) => share(points.loss ?? [], points.scored ?? [], SCORED_OVER, SCORED_LEAST)
    .map((loss) => loss === null ? null : 1 - loss);
  const right = [{ name: "answers given", style: "own", values: accuracy(points) }].concat(
    shown.map(({ name, style, points }) => ({ name, style, values: accuracy(points) })));
  draw($("accuracy"), {
    title: `Accuracy from feedback (1 − mean loss), last ${SCORED_OVER} s`, times, most: 1, say: percent,
    tick: (value) => `${Math.round(value * 100)} %`, least: floor(right.flatMap(({ values }) => values)), lines: right,
  });
  draw($("latency"), {
    title: "Latency, last 10 s, logarithmic", times, log: true, say: ms,
    rule: { value: application.objective_ms, name: "objective" },
    lines: [
      { name: "p99", style: "own", values: points.p99_ms ?? [] },
      { name: "p50", style: "s0", values: points.p50_ms ?? [] },
    ],
  });
  const replies = ["answered", "partial", "default", "refused"];
  draw($("replies"), {
    title: "Replies by status", times, say: perSecond,
    lines: replies.map((name, at) => ({ name, style: style(at), values: store.rate(points[name]) })),
  });
}

/// Where an axis of shares up to 1 begins: a tenth below the least of them.
function floor(shares) {
  const known = shares.filter((value) => value !== null);
  return Math.max(0, Math.floor(Math.min(0.9, ...known) * 10 - 0.5) / 10);
}

function showArms({ arms, shadow_arms }) {
  const shadows = new Map(shadow_arms.map((arm) => [arm.arm, arm]));
  keyed($("arms"), arms, (arm) => arm.arm, () => tableRow("wrap", [
    "", "number", "number", "number", "number", "number", "wrap",
  ]), (line, arm) => {
    const [name, ...cells] = line.children;
    setText(name, arm.arm);
    setCells(cells, [
      arm.model ?? "–",
      orNone(arm.weight, thousandths),
      orNone(shadows.get(arm.arm)?.weight ?? null, thousandths),
      orNone(arm.mean_loss, thousandths),
      count(arm.observations),
      orNone(arm.availability, percent),
      arm.down === null ? "up" : `down: ${arm.down}`,
    ]);
    cells[6].className = arm.down === null ? "wrap good" : "wrap bad";
  });
}

function showReplicas() {
  const replicas = [...store.replicas.values()];
  $("no-replicas").hidden = replicas.length > 0;
  keyed($("replicas"), replicas, ({ id }) => id, () => element("figure"), (figure, replica) => {
    const { limit, limit_min, limit_max } = replica.points;
    draw(figure, {
      title: `${replica.model}:${replica.version} replica ${replica.replica}`,
      times: store.times, height: 120, step: true, whole: true, say: rows, legend: true,
      lines: [{ name: "rows per batch, at most", style: "s0", values: limit }],
      band: { low: limit_min, high: limit_max },
    });
  });
}

function showContainers({ total, shown }) {
  $("no-containers").hidden = total > 0;
  $("some-containers").hidden = total === 0;
  setText($("containers-caption"), total > shown.length
    ? `${shown.length} of ${count(total)}, those that are not ready first`
    : "Those that are not ready first");
  keyed($("containers"), shown, ({ id }) => id, () => tableRow("wrap", [
    "number", "", "", "number", "number", "number", "", "wrap", "wrap",
  ]), (line, container) => {
    const [name, ...cells] = line.children;
    setText(name, `${container.model}:${container.version}`);
    setCells(cells, [
      count(container.replica),
      container.state,
      clock(container.since_ms),
      rows(container.batch_limit),
      count(container.in_flight),
      rows(container.queue_rows),
      container.device,
      container.address,
      container.reason || (container.feasible ? "–" : "one row takes longer than the objective allows"),
    ]);
    const { state } = container;
    cells[1].className = state === "READY" ? "good" : DOWN.includes(state) ? "bad" : "warn";
  });
}

function showCache({ cache, redis_state_connected }) {
  const found = cache.hits + cache.joins;
  const all = found + cache.misses;
  const list = [
    ["Hits", count(cache.hits)],
    ["Misses", count(cache.misses)],
    ["Joined a call under way", count(cache.joins)],
    ["Saved calls", all === 0 ? "–" : percent(found / all)],
    ["Past the cache", count(cache.bypassed)],
    ["Entries", count(cache.entries)],
    ["Memory", `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}`],
    ["Evictions", count(cache.evictions)],
  ];
  if (cache.redis) {
    const { redis } = cache;
    list.push(
      ["Redis tier", redis.circuit_open ? "down: slow or lost, not asked now" : "up"],
      ["Redis hits", count(redis.hits)],
      ["Redis misses", count(redis.misses)],
      ["Redis too late or failed", count(redis.timeouts + redis.errors)],
      ["Redis not asked", count(redis.skipped)],
      ["Redis memory", bytes(redis.bytes)],
    );
  }
  if (redis_state_connected !== null) {
    list.push(["Redis of the state", redis_state_connected ? "connected" : "down: no connection"]);
  }
  facts($("cache-facts"), list);
  const tiers = [["hits", "hits"], ["misses", "misses"], ["joins", "joins"]];
  if (cache.redis) tiers.push(["redis_hits", "Redis hits"], ["redis_misses", "Redis misses"]);
  draw($("cache"), {
    title: "Look-ups in the cache", times: store.times, say: perSecond,
    lines: tiers.map(([column, name], at) => (
      { name, style: style(at), values: store.rate(store.cache[column]) })),
  });
}

function showEvents(events) {
  $("no-events").hidden = events.length > 0;
  $("some-events").hidden = events.length === 0;
  const lines = events.map(({ time_ms, what, from, to, reason }) => {
    const line = tableRow("", ["wrap", "", "", "wrap"]);
    const [time, ...cells] = line.children;
    setText(time, clock(time_ms));
    setCells(cells, [what, from ?? "–", to, reason || "–"]);
    cells[2].className = DOWN.includes(to) ? "bad" : "";
    return line;
  });
  const known = JSON.stringify(events);
  if ($("events").dataset.known === known) return;
  $("events").dataset.known = known;
  $("events").replaceChildren(...lines);
}

// Making elements. What did not change is left alone, so that focus and selection stay.

function element(name, style) {
  const made = document.createElement(name);
  if (style) made.className = style;
  return made;
}

function tableRow(head, cells) {
  const name = element("th", head);
  name.scope = "row";
  const line = element("tr");
  line.append(name, ...cells.map((style) => element("td", style)));
  return line;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setCells(cells, texts) {
  texts.forEach((text, at) => setText(cells[at], text));
}

/// Makes the children of `parent` those of the items, in their order, and keeps the element of
/// each key.
function keyed(parent, items, key, make, update) {
  const before = new Map([...parent.children].map((child) => [child.key, child]));
  items.forEach((item, at) => {
    const child = before.get(key(item)) ?? make(item);
    child.key = key(item);
    before.delete(child.key);
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
    update(child, item);
  });
  for (const gone of before.values()) gone.remove();
}

function facts(list, pairs) {
  keyed(list, pairs, ([name]) => name, () => {
    const pair = element("div");
    pair.append(element("dt"), element("dd"));
    return pair;
  }, (pair, [name, value]) => {
    setText(pair.children[0], name);
    setText(pair.children[1], value);
  });
}

function style(at) {
  return `s${at % STYLES}`;
}

// Numbers as text.

function orNone(value, say) {
  return value === null ? "–" : say(value);
}

function count(value) {
  return value.toLocaleString("en");
}

function counts(list) {
  return list.length === 0 ? "none" : list.map(([name, value]) => `${count(value)} ${name}`).join(", ");
}

function digits(value) {
  return value >= 100 ? value.toFixed(0) : Number(value.toPrecision(value >= 10 ? 3 : 2)).toString();
}

function ms(value) {
  return value >= 1000 ? `${digits(value / 1000)} s` : `${digits(value)} ms`;
}

function perSecond(value) {
  return value >= 1000 ? `${count(Math.round(value))}/s` : `${digits(value)}/s`;
}

function percent(value) {
  return `${(value * 100).toFixed(1)} %`;
}

function hundredths(value) {
  return value.toFixed(2);
}

function thousandths(value) {
  return value.toFixed(3);
}

function rows(value) {
  return count(Math.round(value));
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${digits(value)} ${units[at]}`;
}

function span(seconds) {
  const [days, hours] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}

function clock(time) {
  const at = new Date(time);
  const today = new Date().toDateString() === at.toDateString();
  const text = at.toLocaleTimeString("en-GB");
  return today ? text : `${at.toLocaleDateString("en-CA")} ${text}`;
}

// Asking.

/// The application that the address names, if it names one.
function asks() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || null;
  } catch {
    return null;
  }
}

async function ask() {
  const question = new URLSearchParams();
  const application = asks() ?? (store.seq > 0 ? document.body.dataset.shown : null);
  if (application) question.set("application", application);
  if (search) question.set("search", search);
  if (store.seq > 0) question.set("since", store.seq);
  if (store.series !== null) question.set("series", store.series);
  const reply = await fetch(`/api/page?${question}`, { signal: AbortSignal.timeout(5000) });
  if (!reply.ok) throw new Error(`${reply.status} ${await reply.text()}`);
  return reply.json();
}

async function look() {
  let answer;
  try {
    answer = await ask();
    const now = `${answer.server.instance} ${answer.server.started_ms}`;
    if (run !== null && run !== now) {
      // Another run of the server: what is known is of the one before.
      store.clear();
      delete document.body.dataset.shown;
      answer = await ask();
    }
    run = now;
  } catch (error) {
    lostAt ??= Date.now();
    $("lost").hidden = false;
    setText($("lost"), `Lost the server at ${clock(lostAt)}, retrying. What stands below is as it was then.`);
    setText($("live"), "lost");
    console.info("no answer", error);
    return;
  }
  lostAt = null;
  $("lost").hidden = true;
  setText($("live"), "live");
  if (answer.application) document.body.dataset.shown = answer.application.name;
  else delete document.body.dataset.shown;
  show(answer);
}

async function main() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 1000);
    });
  }
}

let typing = 0;
$("search").addEventListener("input", (event) => {
  search = event.target.value.trim();
  clearTimeout(typing);
  typing = setTimeout(() => wake?.(), 200);
});
window.addEventListener("hashchange", () => wake?.());
document.addEventListener("visibilitychange", () => wake?.());
main();
