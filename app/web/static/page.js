// Asks for the status each second and shows it; says so while the worker does not answer.

import { showDeadLetters, startDeadLetters } from "./dead_letters.js";
import { attribute, byId, show } from "./dom.js";
import { clock, duration } from "./format.js";
import * as panels from "./panels.js";
import { offerModels, startTryBox } from "./try.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;

let answeredAt = null; // by this browser's clock, milliseconds
let timer = null;

async function poll() {
  clearTimeout(timer);
  timer = null;
  let status = null;
  try {
    status = await ask();
  } catch (error) {
    showGone(error);
  }
  if (!document.hidden) timer = setTimeout(poll, EVERY_MS);
  if (status === null) return;
  answeredAt = Date.now();
  showConnected();
  showStatus(status);
}

async function ask() {
  const answer = await fetch("api/status", { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) location.reload(); // which asks for the token
  if (!answer.ok) throw new Error(`It answers with an error: HTTP ${answer.status}.`);
  return answer.json();
}

function showStatus(status) {
  // The worker's own clock: the reader's may differ.
  const now = status.worker.started_at + status.worker.uptime_s;
  panels.showState(status);
  panels.showCharts(status, now);
  panels.showLag(status);
  panels.showQueue(status);
  panels.showLabels(status);
  panels.showErrors(status);
  showDeadLetters(status, now);
  panels.showModels(status);
  panels.showWorkers(status, now);
  panels.showFacts(status);
  offerModels(status.models);
}

function showConnected() {
  attribute(byId("connection"), "data-state", "live");
  show("connection", "Live");
  document.body.classList.remove("stale");
  byId("gone").hidden = true;
}

function showGone(error) {
  attribute(byId("connection"), "data-state", "gone");
  show("connection", answeredAt ? `No answer for ${duration((Date.now() - answeredAt) / 1000)}` : "No answer");
  document.body.classList.add("stale");
  panels.showHeadline("Worker not answering", "bad", []);
  const parts = [
    error.message.startsWith("It ") ? error.message : "",
    "This page keeps trying and goes on by itself.",
    answeredAt ? `The figures below are from ${clock(answeredAt / 1000)}.` : "",
  ];
  show("gone", parts.filter(Boolean).join(" "));
  byId("gone").hidden = false;
}

panels.startCharts();
startTryBox();
startDeadLetters();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === null) poll();
});
poll();
