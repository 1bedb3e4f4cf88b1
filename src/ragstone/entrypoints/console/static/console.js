"use strict";
// The page's whole behaviour: ask, show the answer with its citations, show why each passage is there.
// Documents are untrusted: their words go through textContent alone, and become text whatever they hold.

const LEGS = { bm25: ["words", " (BM25)"], dense: ["meaning", " (vector)"] };
const REASONS = {
  no_passages: "No passage was found.",
  below_threshold: "The passages below come closest; none of them says it clearly enough to quote.",
};
const OPEN_WHEN_ABSTAINED = 3;
const byId = (id) => document.getElementById(id);
let running = null;

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "text") element.textContent = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

const number = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "–");
const plural = (count, one) => `${count} ${one}${count === 1 ? "" : "s"}`;

// ---- asking ---------------------------------------------------------------------------------------------

function body() {
  const wanted = { question: byId("question").value };
  for (const name of ["filter", "as_of", "corpus"]) {
    const value = byId(name).value.trim();
    if (value) wanted[name] = value;
  }
  return wanted;
}

async function ask(event) {
  event.preventDefault();
  if (!byId("question").value.trim()) return byId("question").focus();
  if (running) running.abort();
  const mine = (running = new AbortController());
  busy(true);
  byId("problem").hidden = true;
  byId("status").textContent = "Asking…";
  try {
    const response = await fetch("/v1/answers", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body()),
      signal: mine.signal,
    });
    const document_ = await response.json();
    if (!response.ok) return showProblem(document_);
    show(document_);
    await showLegPaths(document_.id, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") {
      showProblem({
        title: "The server does not answer",
        detail: "The connection was refused or broke.",
        next_step: "see whether ragstone up still runs, then ask again",
      });
    }
  } finally {
    if (running === mine) busy(false);
  }
}

function busy(on) {
  byId("go").setAttribute("aria-disabled", String(on));
  byId("result").setAttribute("aria-busy", String(on));
}

function showProblem(problem) {
  byId("status").textContent = "";
  byId("result").hidden = true;
  byId("problem").replaceChildren(
    make("h2", { text: problem.title || "The request failed" }),
    make("p", { text: problem.detail || "" }),
    problem.next_step ? make("p", { class: "next", text: `Next: ${problem.next_step}` }) : "",
    problem.trace_id ? make("p", { class: "trace", text: `trace ${problem.trace_id}` }) : "",
  );
  byId("problem").hidden = false;
}

// ---- the answer -----------------------------------------------------------------------------------------

function show(answer) {
  const rankOf = new Map(answer.hits.map((hit) => [hit.chunk_id, hit.rank]));
  byId("answer").replaceChildren(...(answer.abstained ? abstention(answer) : sentences(answer, rankOf)));
  if (answer.degraded.length) byId("answer").append(degraded(answer.degraded));
  showFacts(answer);
  showTimings(answer.timings_ms);
  showPassages(answer);
  byId("result").hidden = false;
  const from = new Set(answer.sentences.flatMap((each) => each.citations.map((one) => one.document_id)));
  const what = answer.abstained
    ? "No answer in these documents"
    : `${plural(answer.sentences.length, "sentence")} from ${plural(from.size, "document")}`;
  byId("status").textContent = `${what}, in ${number(answer.timings_ms.total, 0)} ms.`;
}

function sentences(answer, rankOf) {
  return answer.sentences.map((sentence) => {
    const marks = make("span", { class: "marks" });
    for (const chunk of new Set(sentence.citations.map((one) => one.chunk_id))) {
      marks.append(marker(sentence.citations.filter((one) => one.chunk_id === chunk), rankOf.get(chunk)));
    }
    marks.append(make("span", { class: "support", text: `support ${number(sentence.support, 2)}` }));
    return make("p", { class: "sentence" }, make("span", { class: "quote", text: sentence.text }), marks);
  });
}

/** One marker for all that a sentence quotes from a passage. */
function marker(citations, rank) {
  const link = make("a", {
    class: "cite",
    href: rank ? `#passage-${rank}` : null,
    text: rank ? String(rank) : "?",
    title: citations[0].document_id,
    "aria-label": `${plural(citations.length, "quote")} from passage ${rank}, ${citations[0].document_id}`,
  });
  link.addEventListener("click", () => openPassage(rank));
  return link;
}

function openPassage(rank) {
  const details = byId(`passage-${rank}`)?.querySelector("details");
  if (details) details.open = true;
}

function abstention(answer) {
  const why = REASONS[answer.reason] || `Reason: ${answer.reason}.`;
  return [
    make(
      "div",
      { class: "abstained" },
      make("strong", { text: "No answer found in these documents." }),
      make("p", { id: "abstained-why", text: `${why} Confidence ${number(answer.confidence, 2)}.` }),
    ),
  ];
}

function degraded(list) {
  const said = list.map((each) => `${each.stage}: ${each.detail || each.code}`).join("; ");
  return make("p", { class: "degraded", text: `Cut short: ${said}` });
}

// ---- how it was made ------------------------------------------------------------------------------------

function showFacts(answer) {
  const tokens = Object.entries(answer.usage).map(([kind, count]) => `${count} ${kind.replace(/_tokens$/, "").replace(/_/g, " ")}`);
  const facts = [
    ["Corpus", `${answer.corpus}, version ${answer.corpus_version}`],
    ["Model", [answer.model, answer.prompt].filter(Boolean).join(", ")],
    ["Confidence", number(answer.confidence, 2)],
    ["Cost", `${answer.cost_usd} USD`],
    ["Tokens", tokens.join(", ") || "none"],
    ["Release", make("span", { class: "id", title: answer.release, text: answer.release.slice(0, 12) })],
    ["Evidence", make("a", { id: "evidence", class: "id", href: `/v1/evidence/${answer.id}`, text: answer.id })],
  ];
  byId("facts").replaceChildren(
    ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", {}, value)]),
  );
}

function showTimings(timings) {
  const total = timings.total || 0;
  const stages = Object.entries(timings).filter(([name]) => name !== "total");
  stages.sort((one, other) => other[1] - one[1]);
  const longest = Math.max(...stages.map(([, ms]) => ms), 0.001);
  const row = ([name, ms], kind) =>
    make(
      "tr",
      { class: kind },
      make("th", { scope: "row", text: name }),
      make("td", { class: "bar" }, kind ? "" : bar(ms / longest, 0, 1, "")),
      make("td", { text: `${number(ms, 1)} ms` }),
    );
  byId("timings").tBodies[0].replaceChildren(
    ...stages.map((stage) => row(stage, null)),
    row(["total", total], "total"),
  );
}

/** A bar of `value` on an axis from `low` to `high`; it starts at zero and turns red below it. */
function bar(value, low, high, kind) {
  const width = high - low || 1;
  const zero = (0 - low) / width;
  const end = (value - low) / width;
  const fill = make("span", { class: `fill ${value < 0 ? "less" : kind}` });
  fill.style.setProperty("--from", `${Math.min(zero, end) * 100}%`);
  fill.style.setProperty("--wide", `${Math.abs(end - zero) * 100}%`);
  const track = make("div", { class: "track", "aria-hidden": "true" }, fill);
  if (low < 0) {
    const line = make("span", { class: "zero" });
    line.style.setProperty("--from", `${zero * 100}%`);
    track.append(line);
  }
  return track;
}

// ---- passages and their reasons -------------------------------------------------------------------------

function showPassages(answer) {
  const cited = new Map();
  for (const citation of answer.sentences.flatMap((sentence) => sentence.citations)) {
    cited.set(citation.chunk_id, [...(cited.get(citation.chunk_id) || []), citation]);
  }
  const parts = answer.hits.flatMap((hit) => Object.values(hit.why.legs).map((leg) => leg.contribution));
  const axis = { low: Math.min(0, ...parts), high: Math.max(0, ...parts) };
  byId("passages").replaceChildren(
    ...answer.hits.map((hit, at) => {
      const quotes = cited.get(hit.chunk_id) || [];
      const open = quotes.length > 0 || (answer.abstained && at < OPEN_WHEN_ABSTAINED);
      return passage(hit, quotes, axis, open);
    }),
  );
  if (!answer.hits.length) byId("passages").append(make("li", { class: "passage notes", text: "None." }));
}

function passage(hit, quotes, axis, open) {
  const path = hit.heading_path.join(" › ");
  return make(
    "li",
    { class: "passage", id: `passage-${hit.rank}` },
    make(
      "details",
      { open: open ? "" : null },
      make(
        "summary",
        {},
        make("span", { class: "rank", text: String(hit.rank) }),
        make(
          "span",
          { class: "head" },
          make("span", { class: "title", text: hit.title || hit.document_id }),
          path && path !== hit.title ? make("span", { class: "where", text: path }) : "",
          make("span", { class: "where fresh" }, ...freshness(hit)),
        ),
        quotes.length ? make("span", { class: "tag", text: "cited" }) : "",
        make("span", { class: "score", title: "fused score", text: number(hit.score, 3) }),
      ),
      highlighted(hit, quotes),
      reasons(hit, axis),
    ),
  );
}

function freshness(hit) {
  const moment = `indexed ${hit.indexed_at.slice(0, 16).replace("T", " ")} UTC`;
  return [
    make("span", { text: hit.document_id }),
    make("span", { title: hit.source_version, text: `version ${hit.source_version.slice(0, 12)}` }),
    make("span", { text: moment }),
  ];
}

/** The passage with its quotes marked. Offsets count code points; a JavaScript string counts UTF-16 units. */
function highlighted(hit, quotes) {
  const points = Array.from(hit.text);
  const box = make("div", { class: "text" });
  let at = 0;
  const spans = quotes.map((one) => [one.start - hit.span.start, one.end - hit.span.start, one.quote]);
  for (const [start, end, quote] of spans.sort((one, other) => one[0] - other[0])) {
    if (points.slice(start, end).join("") !== quote) {
      box.append(make("p", { class: "warn", text: `This quote is not where its citation says: ${quote}` }));
      continue;
    }
    if (end <= at) continue;
    box.append(points.slice(at, Math.max(at, start)).join(""));
    box.append(make("mark", { text: points.slice(Math.max(at, start), end).join("") }));
    at = end;
  }
  box.append(points.slice(at).join(""));
  return box;
}

function reasons(hit, axis) {
  const head = ["Found by", "rank", "score", "adds", "", "how"].map((text) => make("th", { scope: "col", text }));
  const rows = Object.entries(hit.why.legs).map(([name, leg]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, legName(name)),
      make("td", { text: leg.rank === null ? "not listed" : `#${leg.rank}` }),
      make("td", { text: number(leg.score, 3) }),
      make("td", { text: `${leg.contribution >= 0 ? "+" : "−"}${number(Math.abs(leg.contribution), 3)}` }),
      make("td", { class: "bar" }, bar(leg.contribution, axis.low, axis.high, name)),
      make("td", { class: "path", "data-leg": name, text: "…" }),
    ),
  );
  return make(
    "div",
    { class: "why" },
    make("table", { class: "legs" }, make("caption", { class: "unseen", text: `Why passage ${hit.rank}` }),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
    matched(hit.why.legs.bm25?.terms || {}),
    make("p", { class: "notes", text: fused(hit.why) }),
  );
}

function legName(name) {
  const [plain, technical] = LEGS[name] || [name, ""];
  return make("span", {}, plain, make("span", { class: "technical", text: technical }));
}

function matched(terms) {
  const known = Object.entries(terms).sort((one, other) => other[1] - one[1]);
  if (!known.length) return make("p", { class: "notes", text: "No word of the question is in it." });
  const line = make("p", { class: "notes terms" }, "Matched words: ");
  known.forEach(([term, weight], at) => {
    line.append(at ? ", " : "", make("span", { class: "term", text: term }), ` ${number(weight, 2)}`);
  });
  return line;
}

function fused(why) {
  const copies = why.selected.duplicates.length;
  const twins = copies ? `; ${plural(copies, "equal passage")} left out` : "";
  return `Fused by ${why.fusion.method} over ${why.fusion.n} candidates: place ${why.selected.fused_rank}${twins}.`;
}

/** How each leg was searched stands in the evidence alone; the answer stands without it. */
async function showLegPaths(id, signal) {
  const record = await fetch(`/v1/evidence/${id}`, { signal })
    .then((response) => (response.ok ? response.json() : null))
    .catch(() => null);
  if (signal.aborted) return;
  const legs = new Map((record?.retrieval.legs || []).map((leg) => [leg.name, leg]));
  for (const cell of document.querySelectorAll("td.path")) {
    const leg = legs.get(cell.dataset.leg);
    cell.textContent = leg ? leg.path.split("(")[0] : "–";
    if (leg) cell.title = `${leg.path}: ${leg.returned} of ${leg.matching} rows, depth ${leg.depth}`;
  }
  const why = byId("abstained-why");
  if (why && record?.answer) why.append(` An answer needs ${number(record.answer.threshold, 2)}.`);
}

byId("ask").addEventListener("submit", ask);
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("question").focus();
