// The box to try a document: it goes through Kafka like any other.

import { attribute, bars, byId, element, list, show } from "./dom.js";
import { count, counted, milliseconds, percent, sentence } from "./format.js";

const EXAMPLES = [
  "The home side scored twice in the last four minutes and goes into Sunday's final unbeaten.",
  "Shares of the chip maker rose after it said that orders for the next quarter had doubled.",
  "Ministers of both countries met on the border to talk about a lasting ceasefire.",
  "A telescope the size of a shoebox found three planets around a star that nobody had looked at.",
];

let models = [];
let sending = false;
let example = 0;

export function startTryBox() {
  byId("try-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("try-form").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    }
  });
  byId("try-example").addEventListener("click", () => {
    byId("try-text").value = EXAMPLES[example++ % EXAMPLES.length];
    byId("try-text").focus();
  });
  byId("try-model").addEventListener("change", offerPair);
}

/** The models to choose from; the choice is shown where there is one. */
export function offerModels(served) {
  models = served;
  list(
    byId("try-model"),
    served,
    (model) => model.name,
    (model) => element("option", { value: model.name }),
    (option, model) => show(option, model.default ? `${model.name} (default)` : model.name),
  );
  byId("try-model-field").hidden = served.length < 2;
  offerPair();
}

function offerPair() {
  const chosen = models.find(({ name }) => name === byId("try-model").value);
  byId("try-pair-field").hidden = !chosen?.takes_pairs;
}

async function send() {
  const text = byId("try-text").value;
  if (sending) return;
  if (!text.trim()) {
    complain("Write or paste a document first.");
    byId("try-text").focus();
    return;
  }
  const request = { text };
  if (models.length > 1) request.model = byId("try-model").value;
  const pair = byId("try-pair-field").hidden ? "" : byId("try-pair").value;
  if (pair.trim()) request.text_pair = pair;
  busy(true);
  try {
    const answer = await fetch("api/predict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request),
    });
    const outcome = await answer.json();
    if (outcome.status === "ok") showPrediction(outcome);
    else complain(outcome.error.message, outcome.error.code, outcome.error.retryable);
  } catch {
    complain("The worker did not answer. Try again when the page says that it is back.");
  } finally {
    busy(false);
  }
}

function busy(now) {
  sending = now;
  // Not `disabled`, which would take the focus away.
  attribute(byId("try-send"), "aria-disabled", now ? "true" : null);
  show("try-send", now ? "Predicting…" : "Predict");
  attribute(byId("try-result"), "aria-busy", now ? "true" : null);
}

function complain(message, code, retryable) {
  const parts = [];
  if (code) parts.push(element("p", { class: "code" }, code));
  parts.push(element("p", { dir: "auto" }, sentence(message)));
  if (retryable) parts.push(element("p", { class: "muted" }, "It may work when tried again."));
  byId("try-result").replaceChildren(element("div", { class: "error" }, ...parts));
}

function showPrediction(outcome) {
  const result = byId("try-result");
  const scores = Object.entries(outcome.scores ?? {});
  const parts = headline(outcome);
  if (scores.length) {
    const rows = element("ul", { class: "bars" });
    bars(
      rows,
      scores.map(([name, score]) => ({ key: name, name, value: percent(score), share: score })),
    );
    parts.push(rows);
  }
  parts.push(element("dl", { class: "times" }, ...times(outcome)), origin(outcome));
  result.replaceChildren(...parts);
}

/** What is said first depends on the task. */
function headline({ task, label, labels, score, embedding }) {
  const large = (text) => element("p", { class: "label", dir: "auto" }, text);
  if (embedding) {
    const start = embedding.slice(0, 6).map((number) => number.toFixed(4));
    return [
      large(counted(embedding.length, "number")),
      element("code", { class: "vector" }, `[${start.join(", ")}${embedding.length > 6 ? ", …" : ""}]`),
    ];
  }
  if (labels) return [large(labels.length ? labels.join(", ") : "No label above its threshold")];
  if (task === "regression" || label === null) return [large(score === null ? "–" : score.toFixed(4))];
  return [large(label)];
}

function times({ timings_ms: timings, segments, tokens }) {
  const fact = (name, value) => element("div", {}, element("dt", {}, name), element("dd", {}, value));
  return [
    fact("Total", milliseconds(timings?.total)),
    fact("Queued", milliseconds(timings?.queued)),
    fact("Inference", milliseconds(timings?.inference)),
    fact("Segments", count(segments)),
    fact("Tokens", count(tokens)),
  ];
}

function origin({ model, model_version: version, source }) {
  const place = source ? ` · ${source.topic}, partition ${source.partition}, offset ${source.offset}` : "";
  return element("p", { class: "origin muted" }, `Model ${model} ${version ?? ""}${place}`);
}
