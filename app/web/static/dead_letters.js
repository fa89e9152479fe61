// The requests that ended in an error last: anybody's bytes, so they are text and never more.

import { byId, element, filledTable, list, show, small } from "./dom.js";
import * as format from "./format.js";

const COLUMNS = [
  {
    title: "Error",
    cell: ({ code, message }) => [element("strong", { class: "code" }, code), small(format.sentence(message))],
  },
  {
    title: "Request",
    cell: ({ source, id }) => [
      element("bdi", {}, id ?? "too large to look for its id"),
      small(`partition ${source.partition}, offset ${source.offset}`),
    ],
  },
  { title: "Value", cell: (letter) => [element("bdi", { class: "snippet code" }, value(letter)), small(size(letter))] },
  { title: "Since", cell: ({ age, replays, replayed }) => [age, small(replayed), small(again(replays))] },
];

const FEW = 6;
let all = false; // whether more than a few are to be shown

export function startDeadLetters() {
  byId("dead-letters-more").addEventListener("click", () => {
    all = !all;
    showMore();
  });
}

export function showDeadLetters({ dead_letters: letters, broker, worker }, now) {
  const { latest, records, recent } = letters;
  const codes = Object.entries(recent).sort(([, a], [, b]) => b - a);
  const counts = codes.length ? "; in the last five minutes:" : ".";
  show("dead-letters-note", `${note(latest, records, broker, worker)}${counts}`);
  list(
    byId("dead-letters-recent"),
    codes,
    ([code]) => code,
    () => element("li", { class: "badge" }),
    (badge, [code, amount]) => show(badge, `${code} ${format.count(amount)}`),
  );
  const rows = (latest ?? []).map((letter) => ({
    ...letter,
    age: format.ago(now - letter.time),
    replayed: letter.replayed_at === null ? "" : `replayed ${format.ago(now - letter.replayed_at)}`,
  }));
  const key = ({ place }) => `${place.partition}-${place.offset}`;
  filledTable("dead-letters", "Dead letters", COLUMNS, rows, key, "");
  showMore();
}

function showMore() {
  const rows = [...byId("dead-letters").querySelectorAll("tbody tr")];
  rows.forEach((row, place) => (row.hidden = place >= FEW && !all));
  byId("dead-letters-more").hidden = rows.length <= FEW;
  show("dead-letters-more", all ? "Show fewer" : `Show all ${rows.length}`);
}

function note(latest, records, broker, worker) {
  if (latest === null) return worker.ready ? "Being read" : "Shown once the worker is ready";
  if (!latest.length) return "None, no request has ended in an error";
  const shown = latest.length === 1 ? "The latest" : `The latest ${latest.length}`;
  const topic = broker.topics.dead_letters;
  return `${shown} of ${format.counted(records, "record")} on ${topic}`;
}

function value({ text, omitted, value_bytes: bytes }) {
  if (omitted) return "omitted: too large";
  return bytes === null ? "no value" : text;
}

function size({ omitted, value_bytes: bytes }) {
  return omitted || bytes === null ? "" : format.counted(bytes, "byte");
}

function again(replays) {
  return replays ? `came back ${format.counted(replays, "time")}` : "";
}
