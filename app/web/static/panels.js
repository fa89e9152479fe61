// Each function shows one part of the status that api/status gives.

import { attribute, bars, byId, element, filledTable, list, show, small } from "./dom.js";
import { Chart } from "./chart.js";
import * as format from "./format.js";

const HEADLINES = {
  starting: "Starting",
  "waiting for broker": "Waiting for the broker",
  rebalancing: "Rebalancing",
  ready: "Ready",
  draining: "Draining",
};

export function showState({ worker, throughput }) {
  const named = HEADLINES[worker.state] ?? worker.state;
  const headline = worker.state === "ready" && !worker.ready ? "Not ready" : named;
  // The state says itself what the worker waits for.
  const reasons = worker.reasons.filter((reason) => reason !== worker.state);
  showHeadline(headline, headline === "Ready" ? "good" : "waiting", reasons);
  const parts = [
    worker.name,
    `group ${worker.group}`,
    `up ${format.duration(worker.uptime_s)}`,
    worker.delivery,
  ];
  show("worker-line", parts.join(" · "));
  const { now, total } = throughput ?? NOTHING_YET;
  show("documents-rate", format.rate(now?.documents_per_s));
  show("documents-total", `${format.count(total.documents)} in all`);
  show("tokens-rate", format.rate(now?.tokens_per_s));
  show("tokens-total", `${format.count(total.tokens)} in all`);
  const latency = now?.latency_ms;
  show("latency-p99", format.milliseconds(latency?.p99));
  const rest = `p50 ${format.milliseconds(latency?.p50)} · p95 ${format.milliseconds(latency?.p95)}`;
  show("latency-rest", latency ? rest : "no documents just now");
  show("errors-total", format.count(total.errors));
  const share = total.records ? `${format.percent(total.errors / total.records)} of records` : "none yet";
  show("errors-note", share);
}

/** `tone`: good, waiting or bad. */
export function showHeadline(headline, tone, reasons) {
  show("headline", headline);
  attribute(byId("state"), "data-tone", tone);
  document.title = `${headline} · bertstream`;
  list(
    byId("reasons"),
    reasons,
    (reason) => reason,
    () => element("li"),
    (item, reason) => show(item, format.sentence(reason)),
  );
}

// Before the worker has joined its group there are no figures.
const NOTHING_YET = { interval_s: 1, now: null, history: [], total: {} };

const charts = [];

export function startCharts() {
  const chart = (id, options) => charts.push(new Chart(byId(id), options));
  const latency = (name) => ({
    name,
    value: ({ latency_ms: values }) => values?.[name] ?? null,
  });
  const single = (field) => [{ name: "", value: (point) => point[field] ?? null }];
  chart("chart-documents", {
    title: "Documents",
    unit: "docs/s",
    series: single("documents_per_s"),
    format: (value) => `${format.rate(value)} per second`,
  });
  chart("chart-latency", {
    title: "Latency",
    series: [latency("p50"), latency("p95"), latency("p99")],
    format: format.milliseconds,
    tick: format.tickOfTime,
  });
  chart("chart-tokens", {
    title: "Tokens",
    unit: "tokens/s",
    series: single("tokens_per_s"),
    format: (value) => `${format.rate(value)} per second`,
  });
  chart("chart-batch", {
    title: "Device batch",
    series: [
      { name: "documents", value: (point) => point.batch_size ?? null },
      { name: "segments", value: (point) => point.batch_segments ?? null },
    ],
    format: format.rate,
  });
}

export function showCharts({ throughput, worker }, now) {
  const { interval_s: interval, history, total } = throughput ?? NOTHING_YET;
  byId("no-documents").hidden = total.records > 0 || !worker.ready;
  for (const chart of charts) chart.update(history, now, Math.max(3, 3.5 * interval));
}

export function showLag({ partitions, broker }) {
  const lag = partitions.reduce((sum, { lag }) => sum + (lag ?? 0), 0);
  const most = Math.max(1, ...partitions.map(({ lag }) => lag ?? 0));
  show("lag-total", partitions.length ? format.count(lag) : "–");
  show("lag-note", partitions.length ? `over ${format.counted(partitions.length, "partition")}` : "no partitions yet");
  bars(
    byId("lag"),
    partitions.map(({ partition, lag, end, committed, worker }) => ({
      key: partition,
      name: `Partition ${partition}`,
      note: worker ?? "no worker",
      value: format.count(lag),
      share: (lag ?? 0) / most,
      title: `committed ${format.count(committed)} of ${format.count(end)}`,
    })),
    broker.connected ? "The topic has not been seen yet." : "Shown once the broker answers.",
  );
}

export function showQueue({ queue }) {
  show("pressure", pressure(queue));
  bars(byId("in-flight"), [
    {
      key: "in-flight",
      name: "Device batches in flight",
      value: `${format.count(queue.batches_in_flight)} of ${format.count(queue.max_in_flight)}`,
      share: queue.batches_in_flight / (queue.max_in_flight || 1),
    },
  ]);
  show("queue-documents", format.count(queue.documents));
  show("queue-tokens", format.count(queue.tokens));
  show("queue-delivery", format.count(queue.awaiting_delivery));
}

function pressure({ documents, batches_in_flight: batches, max_in_flight: most }) {
  if (most === undefined) return "Shown once the worker is ready.";
  if (batches >= most) return "Back-pressure: the device is full, further records wait in Kafka.";
  if (batches || documents) return "Working: there is room for more records.";
  return "Idle: every record that was taken has its answer.";
}

const MOST_LABELS = 12;

export function showLabels({ labels }) {
  const all = Object.entries(labels).sort(([, a], [, b]) => b - a);
  const sum = all.reduce((total, [, amount]) => total + amount, 0);
  const row = ([name, amount]) => ({
    key: `label ${name}`,
    name,
    note: format.count(amount),
    value: format.percent(amount / sum),
    share: amount / sum,
  });
  const rows = all.slice(0, MOST_LABELS).map(row);
  const others = all.slice(MOST_LABELS).reduce((total, [, amount]) => total + amount, 0);
  if (others) {
    rows.push({ ...row(["", others]), key: "others", name: `${all.length - MOST_LABELS} other labels` });
  }
  bars(byId("labels"), rows, "No predictions yet.");
}

export function showErrors({ errors }) {
  const all = Object.entries(errors).sort(([, a], [, b]) => b - a);
  const most = Math.max(1, ...all.map(([, amount]) => amount));
  bars(
    byId("errors"),
    all.map(([code, amount]) => ({
      key: code,
      name: code,
      value: format.count(amount),
      share: amount / most,
    })),
    "No errors.",
  );
}

const MODEL_COLUMNS = [
  {
    title: "Model",
    cell: ({ name, version, default: chosen }) => [
      element("strong", { dir: "auto" }, name),
      ...(chosen ? [" ", element("span", { class: "badge" }, "default")] : []),
      small(version ?? ""),
    ],
  },
  { title: "Task", cell: ({ task, family }) => [task ?? "–", small(family ?? "")] },
  { title: "Labels", cell: ({ labels }) => labelNames(labels) },
  {
    title: "Window",
    cell: ({ window, aggregation }) => [
      format.counted(window, "token"),
      small(aggregation ? `segments: ${aggregation}` : ""),
    ],
  },
  { title: "Parameters", cell: ({ parameters }) => size(parameters) },
  { title: "Device", cell: ({ device, dtype }) => [device ?? "–", small(dtype ?? "")] },
];

const MOST_NAMES = 8;

function labelNames(labels) {
  if (!labels?.length) return "–";
  const names = labels.slice(0, MOST_NAMES).join(", ");
  const more = labels.length - MOST_NAMES;
  return more > 0 ? `${names} and ${more} more` : names;
}

function size(parameters) {
  if (typeof parameters !== "number") return "–";
  return parameters < 1e6 ? format.count(parameters) : `${(parameters / 1e6).toFixed(1)} M`;
}

export function showModels({ models }) {
  const empty = "No model is loaded yet.";
  filledTable("models", "Models", MODEL_COLUMNS, models, ({ name }) => name, empty);
}

export function showWorkers({ workers, worker }, now) {
  const columns = [
    {
      title: "Worker",
      cell: ({ name, host, pid, page }) => [
        workerName(name, page),
        ...(name === worker.name ? [" ", element("span", { class: "badge" }, "this one")] : []),
        small(`${host}, process ${pid}`),
      ],
    },
    {
      title: "Partitions",
      cell: ({ partitions }) => (partitions.length ? format.ranges(partitions) : "none"),
    },
    {
      title: "Documents/s",
      cell: ({ documents_per_s: rate }) => format.rate(rate),
    },
    {
      title: "Batch",
      cell: ({ batch_size: documents, batch_segments: segments }) => [
        format.rate(documents),
        small(typeof segments === "number" ? `${format.rate(segments)} segments` : ""),
      ],
    },
    {
      title: "Latency p99",
      cell: ({ latency_ms: latency }) => format.milliseconds(latency?.p99),
    },
    { title: "Device", cell: ({ device, dtype }) => [device ?? "–", small(dtype ?? "")] },
    { title: "Last seen", cell: ({ last_seen: seen }) => format.ago(now - seen) },
  ];
  const empty = "No worker has reported yet.";
  filledTable("workers", "Workers of the group", columns, workers, ({ name }) => name, empty);
}

function workerName(name, page) {
  const strong = element("strong", { dir: "auto" }, name);
  // The address comes from another process: nothing but a web page may be opened.
  return /^https?:\/\//.test(page ?? "") ? element("a", { href: page }, strong) : strong;
}

export function showFacts({ worker, broker }) {
  const topics = broker.topics ?? {};
  const facts = [
    ["Broker", `${broker.addresses.join(", ")} (${broker.connected ? "connected" : "not connected"})`],
    ["Requests", topics.requests],
    ["Responses", topics.responses],
    ["Dead letters", topics.dead_letters],
    ["Throughput", topics.throughput],
    ["Consumer group", worker.group],
    ["Delivery", worker.delivery],
    ["Process", `${worker.pid}, since ${format.date(worker.started_at)}`],
    ["bertstream", worker.version],
    ["Python", worker.python],
    ["torch", worker.torch],
  ].filter(([, value]) => value);
  list(
    byId("facts"),
    facts,
    ([name]) => name,
    ([name]) => element("div", {}, element("dt", {}, name), element("dd", {})),
    (row, [, value]) => show(row.lastElementChild, value),
  );
}
