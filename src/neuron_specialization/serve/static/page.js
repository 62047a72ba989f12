"use strict";

const at = (id) => document.getElementById(id);
const [source, target, text, output] = ["source", "target", "text", "output"].map(at);
const names = new Intl.DisplayNames(["en"], { type: "language", fallback: "code" });
let directions = new Map();
let running = null; // the request that is under way

const nameOf = (code) => {
  try {
    const name = names.of(code);
    return name === code ? code : `${name} (${code})`;
  } catch {
    return code; // not a language code the browser knows
  }
};
const chosen = () => directions.get(`${source.value}-${target.value}`);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function fill(select, codes, wanted) {
  select.replaceChildren(...codes.map((code) => new Option(nameOf(code), code)));
  if (codes.includes(wanted)) select.value = wanted;
}

function sourcesOf() {
  return [...new Set([...directions.values()].map((one) => one.source))].sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
}

function targetsOf(code) {
  const found = [...directions.values()].filter((one) => one.source === code).map((one) => one.target);
  return found.sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
}

function choose(from, to) {
  source.value = from;
  fill(target, targetsOf(source.value), to);
  show();
}

function show() {
  const direction = chosen();
  if (!direction) return;
  at("swap").disabled = !directions.has(`${direction.target}-${direction.source}`);
  text.lang = direction.source;
  output.lang = direction.target;
  history.replaceState(null, "", `#${direction.direction}`);
  at("neurons-text").textContent = direction.masked
    ? `${nameOf(direction.source)} to ${nameOf(direction.target)} uses ${percent(direction.share)} of the feed-forward neurons.`
    : "This model is dense: every direction uses all of its neurons.";
  const table = at("neurons");
  table.hidden = !direction.masked || direction.layers.length === 0;
  table.tBodies[0].replaceChildren(...direction.layers.map(row));
}

function row(layer) {
  const [side, , number] = layer.layer.split(".");
  const line = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = `${side === "encoder" ? "Encoder" : "Decoder"} ${Number(number) + 1}`;
  const bar = document.createElement("td");
  bar.append(drawn(layer.share, side));
  const value = document.createElement("td");
  value.textContent = `${percent(layer.share)} · ${layer.kept} of ${layer.of}`;
  line.append(head, bar, value);
  return line;
}

function drawn(share, side) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("aria-hidden", "true"); // the number stands beside it
  for (const [kind, width] of [["track", 1], [side, share]]) {
    const part = document.createElementNS(space, "rect");
    part.setAttribute("class", kind);
    part.setAttribute("width", `${100 * width}%`);
    part.setAttribute("height", "100%");
    part.setAttribute("rx", "3");
    svg.append(part);
  }
  return svg;
}

function tell(problem) {
  at("problem").textContent = problem;
  at("problem").hidden = !problem;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const busy = response.status === 503 || response.status === 429;
  throw new Error((answer?.error?.message ?? `The service answered ${response.status}.`) + (busy ? " Try again in a moment." : ""));
}

async function translate() {
  const direction = chosen();
  if (!direction || !text.value.trim()) {
    text.focus();
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  tell("");
  at("submit").setAttribute("aria-disabled", "true");
  at("status").textContent = "Translating…";
  output.classList.add("stale");
  try {
    const answer = await ask("translate", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ direction: direction.direction, text: text.value.replace(/\r\n?/g, "\n") }),
      signal: mine.signal,
    });
    output.textContent = answer.translations.map((one) => one.translation).join("\n");
    at("status").textContent = `${answer.seconds.toFixed(2)} s`;
  } catch (error) {
    if (error.name === "AbortError") return;
    at("status").textContent = "";
    tell(error.message);
  } finally {
    if (running === mine) {
      running = null;
      at("submit").removeAttribute("aria-disabled");
      output.classList.remove("stale");
    }
  }
}

function forget() {
  // another direction: what stands there is not its translation
  running?.abort();
  running = null;
  at("submit").removeAttribute("aria-disabled");
  output.classList.remove("stale");
  output.textContent = "";
  at("status").textContent = "";
  tell("");
}

source.addEventListener("change", () => { forget(); choose(source.value, target.value); });
target.addEventListener("change", () => { forget(); show(); });
at("swap").addEventListener("click", () => {
  const translated = output.textContent;
  forget();
  choose(target.value, source.value);
  if (translated) text.value = translated;
});
at("form").addEventListener("submit", (event) => { event.preventDefault(); translate(); });
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    translate();
  }
});

ask("directions")
  .then((answer) => {
    directions = new Map(answer.directions.map((one) => [one.direction, one]));
    at("model").textContent = `${answer.model} · ${directions.size} direction${directions.size === 1 ? "" : "s"}`;
    const wanted = directions.get(location.hash.slice(1)) ?? answer.directions[0];
    fill(source, sourcesOf(), wanted.source);
    choose(wanted.source, wanted.target);
  })
  .catch((error) => tell(error.message));
