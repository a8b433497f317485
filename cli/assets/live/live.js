// The page of a run that lives: asks for the document of the moment every second and shows it. The server keeps the history,
// so a page that is opened late, or again, shows all of it. Text is only ever set as text.

import { bar, draw, grouped, meter, picture, points, short } from "./plot.js";

const EVERY = 1_000;
const PATIENCE = 5_000; // milliseconds until an answer counts as none
const VERSION = 1;

// Colours by their role, as in the report.
const [BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY, OLIVE] = [1, 2, 3, 4, 5, 6, 7, 8];
const OF_TOP = [BLUE, GREEN, PURPLE, OLIVE];
const FATES = [["trained", BLUE], ["buffered", SKY], ["dropped", ORANGE], ["rejected", PURPLE], ["lost", RED]];
const STATES = { Running: ["good", "●"], Completing: ["good", "●"], Done: ["quiet", "■"], Settling: ["bad", "▲"], Restarting: ["bad", "▲"], Stopping: ["quiet", "■"] };
const BUFFERS = { Healthy: "good", Starved: "bad", Overflowing: "bad", Backlogged: "bad" };
const SIGNS = { Note: "·", Checkpoint: "✓", Failure: "✕" };

const at = (id) => document.getElementById(id);
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// ---- words ---------------------------------------------------------------------------------------------------------

const span = (seconds) => {
  const whole = Math.round(Math.max(seconds, 0));
  if (whole < 60) return `${Math.max(seconds, 0).toFixed(1)}\u00a0s`;
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min\u00a0${two(whole % 60)}\u00a0s`;
  return `${Math.floor(whole / 3600)}\u00a0h\u00a0${two(Math.floor((whole % 3600) / 60))}\u00a0min`;
};
const count = (number) => (isNumber(number) ? grouped(number) : "–");
const percent = (share, decimals = 1) => (isNumber(share) ? `${(share * 100).toFixed(decimals)}\u00a0%` : "–");
const bytes = (number) => {
  const text = short(number);
  return /[a-zA-Z]$/.test(text) ? `${text}B` : `${text}\u00a0B`;
};
const counted = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

// ---- elements ------------------------------------------------------------------------------------------------------

const set = (target, text) => {
  // Untouched text stays as it is: a selection, and a reader's place, survive the next second.
  if (target.textContent !== text) target.textContent = text;
};
const make = (name, kind, ...content) => {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...content);
  return made;
};
// Makes a list's rows as many as there are values, and fills each.
const rows = (parent, values, create, fill) => {
  while (parent.children.length > values.length) parent.lastElementChild.remove();
  while (parent.children.length < values.length) parent.append(create());
  values.forEach((value, index) => fill(parent.children[index], value, index));
};

// ---- the parts of the page -----------------------------------------------------------------------------------------

const headline = (page) => {
  const { state, end, about } = page;
  const [tone, sign] = end ? (end.well ? ["good", "✓"] : ["bad", "✕"]) : (STATES[state.phase] ?? ["quiet", "○"]);
  set(at("job"), page.job || "…");
  at("state").className = `outcome ${tone}`;
  set(at("state"), `${sign} ${end ? end.outcome : state.phase}`);
  const facts = [end ? end.message : state.words];
  if (state.attempt > 1) facts.push(`attempt ${state.attempt}`);
  facts.push(span(state.seconds));
  if (!end && isNumber(state.secondsLeft)) facts.push(`about ${span(state.secondsLeft)} left`);
  set(at("words"), `· ${facts.join(" · ")}`);
  const done = at("done");
  done.hidden = !isNumber(state.shareDone);
  done.value = state.shareDone ?? 0;
  const goal = state.goal === "" ? [] : [isNumber(state.shareDone) ? `${percent(state.shareDone, 0)} of ${state.goal}` : `until ${state.goal}`];
  set(at("goal"), [...goal, counted(page.deviceCount, "device", "devices"), about.model, `streams on ${about.broker}`].join(" · "));
  set(at("about"), `${about.program} · run folder ${about.folder} · Nothing in this page is loaded from elsewhere.`);
  document.title = `${end ? end.outcome : page.progress ? `step ${page.progress.step}` : state.phase} – ${page.job || "scadles"}`;
};

const figures = (page) => {
  const { progress: latest, ledger } = page;
  const last = page.evaluations.at(-1);
  const gone = ledger.dropped + ledger.rejected + ledger.lost;
  const others = last?.topK.slice(1).map((top) => `Top-${top.accuracyK} ${percent(top.share)}`) ?? [];
  const sent = latest?.denseBytes > 0 ? `${percent(latest.bytesSent / latest.denseBytes, 0)} of dense, CNC ${(latest.compression.sparseSteps / Math.max(1, latest.step)).toFixed(2)}` : latest ? `${bytes(latest.bytesSent / Math.max(1, latest.step))} a step, all devices` : "no step yet";
  const none = ["–", "no step yet"];
  const all = [
    ["Samples trained", ...(latest ? [count(latest.samples), `${count(Math.round(latest.samplesPerSecond))} per second`] : none)],
    ["Training time", ...(latest ? [span(latest.trainSeconds), `${counted(latest.step, "step", "steps")}, ${latest.stepSeconds.toFixed(2)}\u00a0s the last`] : none)],
    ["Top-1 accuracy", last ? percent(last.topK[0]?.share) : "–", last ? [...others, `after step ${count(last.step)}`].join(", ") : "no evaluation yet"],
    ["Training loss", ...(latest ? [isNumber(latest.loss) ? latest.loss.toFixed(3) : "–", `learning rate ${short(latest.learningRate)}`] : none)],
    ["Samples of the step", ...(latest ? [count(latest.globalBatch), latest.windowSeconds > 0 ? `window ${latest.windowSeconds.toFixed(2)}\u00a0s` : "all devices"] : none)],
    ["Samples waiting", ...(latest ? [count(ledger.buffered), `the oldest for ${span(latest.oldestSeconds)}`] : none)],
    ["Dropped, rejected, lost", count(gone), `${percent(ledger.arrived > 0 ? gone / ledger.arrived : 0)} of ${count(ledger.arrived)} that arrived`],
    ["Gradients sent", latest ? bytes(latest.bytesSent) : "–", sent],
  ];
  const create = () => make("div", "figure", make("span", "label"), make("b"), make("span"));
  rows(at("figures"), all, create, (figure, texts) => texts.forEach((text, index) => set(figure.children[index], text)));
};

const now = (all, text) => (all.length > 0 ? `, now ${text(all.at(-1).mean)}` : "");

const learning = (page) => {
  const { curves, evaluations } = page;
  const training = points(curves.seconds, curves.loss);
  const exact = (value) => evaluations.filter((one) => isNumber(value(one))).map((one) => ({ x: one.seconds, low: value(one), mean: value(one), high: value(one) }));
  const marks = curves.restarts.map(([x, attempt]) => ({ x, name: `attempt ${attempt}` }));
  draw(at("loss"), {
    title: `Loss over training time${now(training, (loss) => loss.toFixed(3))}`,
    name: "mean loss of a sample",
    y: "number",
    lines: [
      { name: "held-out", colour: RED, stroke: "dots", points: exact((one) => one.loss) },
      { name: "training", colour: BLUE, points: training },
    ],
    marks,
  });
  const ks = evaluations[0]?.topK.slice(0, OF_TOP.length).map((top) => top.accuracyK) ?? [];
  const lines = ks.map((k, index) => ({ name: `Top-${k}`, colour: OF_TOP[index], stroke: "dots", points: exact((one) => one.topK.find((top) => top.accuracyK === k)?.share) }));
  const none = lines.length === 0;
  at("accuracy").toggleAttribute("hidden", none);
  at("no-accuracy").hidden = !none;
  set(at("no-accuracy"), "No evaluation yet: spec.evaluation of the job says how often one takes place.");
  if (!none) {
    draw(at("accuracy"), { title: `Accuracy over training time${now(lines[0].points, (share) => percent(share))}`, name: "right guesses", y: "share", from: 0, to: curves.seconds.at(-1), lines, marks });
  }
};

const speed = (page) => {
  const { curves } = page;
  const over = (curve) => points(curves.seconds, curve);
  const marks = curves.restarts.map(([x, attempt]) => ({ x, name: `attempt ${attempt}` }));
  const trained = over(curves.training);
  const buffered = over(curves.buffered);
  const batch = over(curves.globalBatch);
  draw(at("speed"), {
    title: `Samples per second over training time${now(trained, short)}`, name: "samples per second", y: "number", from: 0, marks,
    lines: [{ name: "trained", colour: BLUE, points: trained }, { name: "arriving", colour: ORANGE, stroke: "dashed", points: over(curves.arriving) }],
  });
  draw(at("waiting"), { title: `Samples waiting over training time${now(buffered, short)}`, name: "samples", y: "number", from: 0, marks, lines: [{ name: "waiting", colour: ORANGE, points: buffered }] });
  const apart = [["waiting", GREY, curves.wait, "dashed"], ["compute", BLUE, curves.compute], ["exchange", ORANGE, curves.exchange], ["own", PURPLE, curves.own]];
  const parts = curves.phases ? apart : [apart[0], ["the rest", BLUE, curves.compute]];
  draw(at("time"), {
    title: "Seconds of a step over training time, mean of the devices, by what they did", name: "seconds per step", y: "number", from: 0, marks,
    lines: parts.map(([name, colour, curve, stroke]) => ({ name, colour, stroke, points: over(curve) })),
  });
  draw(at("batch"), { title: `Samples of a step over training time${now(batch, short)}`, name: "samples", y: "number", from: 0, marks, lines: [{ name: "batch", colour: GREEN, points: batch }] });
};

// The plots of a device: what is in its curves, which heading, which scale and colour.
const KINDS = [
  ["rate", "Rate, samples/s", "number", BLUE],
  ["buffered", "Buffer, samples waiting", "number", ORANGE],
  ["batch", "Batch, samples a step", "number", GREEN],
  ["weight", "Weight, % of the step", "share", PURPLE],
];

const newDevice = () => {
  const row = make("tr");
  row.setAttribute("role", "row");
  const who = make("th", "", make("span", "name"), make("span", "badge"), make("span", "more"));
  who.scope = "row";
  who.setAttribute("role", "rowheader");
  row.append(who);
  for (const [kind, heading] of KINDS) {
    const cell = make("td", "", make("span", "what", heading), make("span", "now"), make("span", "of"));
    cell.setAttribute("role", "cell");
    if (kind === "buffered") cell.append(picture("meter"));
    cell.append(picture("plot"));
    row.append(cell);
  }
  return row;
};

const values = (device) => {
  const { now: state, asked, places } = device;
  if (!state) return [["–", asked === null ? "" : `of ${short(asked)} asked`], ["–", ""], ["–", ""], ["–", ""]];
  return [
    [short(state.rate), asked === null ? "" : `of ${short(asked)} asked`],
    [count(state.ledger.buffered), places === null ? "" : `${count(state.bufferedLocal)} of ${short(places)} places`],
    [count(state.batch), ""],
    [percent(state.weight), ""],
  ];
};

const devices = (page) => {
  const { devices: shown, deviceSeconds: seconds } = page;
  const scale = (kind) => Math.max(0, ...shown.flatMap((device) => points(seconds, device.curves[kind]).map((point) => point.high)), ...(kind === "rate" ? shown.map((device) => device.asked ?? 0) : []));
  const most = Object.fromEntries(KINDS.map(([kind]) => [kind, scale(kind)]));
  const all = shown.length === page.deviceCount ? "" : ` ${count(shown.length)} of ${count(page.deviceCount)} devices, those that need attention first.`;
  set(at("devices-words"), `Each column has one scale. The dashed line is the rate that was asked of the stream, the bar how much of the worker's buffer is taken.${all}`);
  rows(at("devices"), shown, newDevice, (row, device) => {
    const [name, badge, more] = row.children[0].children;
    set(name, device.name);
    const state = device.now?.state ?? "Unknown";
    badge.className = `badge ${BUFFERS[state] ?? ""}`;
    set(badge, state === "Unknown" ? "not known yet" : state);
    const facts = [];
    if (device.now) facts.push(device.now.silentSeconds > 5 ? `silent for ${span(device.now.silentSeconds)}` : `oldest ${span(device.now.oldestSeconds)}`);
    if (device.waits) facts.push(`producer waits ${device.waits}`);
    set(more, facts.join(", "));
    const texts = values(device);
    KINDS.forEach(([kind, heading, y, colour], index) => {
      const cell = row.children[index + 1];
      set(cell.children[1], texts[index][0]);
      set(cell.children[2], texts[index][1]);
      const own = points(seconds, device.curves[kind]);
      const lines = [{ name: "", colour, points: own }];
      if (kind === "rate" && device.asked !== null && own.length > 1) {
        lines.push({ name: "", colour: GREY, stroke: "dashed", points: [own[0], own.at(-1)].map(({ x }) => ({ x, low: device.asked, mean: device.asked, high: device.asked })) });
      }
      draw(cell.lastElementChild, { title: `${heading} of ${device.name} over training time, now ${texts[index][0]}`, small: true, y, from: 0, most: most[kind], to: seconds.at(-1), lines });
      if (kind === "buffered") {
        const { now: state, places } = device;
        const share = state && places > 0 ? state.bufferedLocal / places : 0;
        meter(cell.children[3], `${device.name}: ${texts[index][1]} of the worker's buffer are taken`, share);
      }
    });
  });
};

const newAccount = () => {
  const name = make("th");
  name.scope = "row";
  return make("tr", "", name, ...Array.from({ length: 7 }, () => make("td", "n")));
};

const ledger = (page) => {
  const parts = FATES.map(([name, colour]) => ({ name, colour, value: page.ledger[name] }));
  const arrived = page.ledger.arrived;
  bar(at("ledger"), `What became of ${count(arrived)} samples: ${parts.map((part) => `${part.name} ${count(part.value)}`).join(", ")}`, parts);
  at("ledger").toggleAttribute("hidden", arrived === 0);
  const entry = () => make("li", "", picture("swatch"), make("span"), " ", make("b"), " ", make("span"));
  rows(at("ledger-legend"), arrived === 0 ? [] : parts, entry, (item, part) => {
    const [swatch, name, number, share] = item.children;
    if (swatch.childElementCount === 0) bar(swatch, "", [{ colour: part.colour, value: 1 }]);
    set(name, part.name);
    set(number, count(part.value));
    set(share, `(${part.value > 0 && part.value / arrived < 0.001 ? "< 0.1\u00a0%" : percent(part.value / arrived)})`);
  });
  const accounts = page.devices.filter((device) => device.now).map((device) => [device.name, device.now.ledger]);
  const shown = [...accounts, [page.deviceCount === 1 ? "The device" : `All ${count(page.deviceCount)} devices`, page.ledger]];
  rows(at("ledger-rows"), shown, newAccount, (row, [name, account], index) => {
    row.className = index === shown.length - 1 ? "sum" : "";
    set(row.children[0], name);
    ["arrived", "trained", "buffered", "dropped", "rejected", "lost", "rolledBack"].forEach((column, place) => set(row.children[place + 1], count(account[column])));
  });
};

const newAttempt = () => make("tr", "", make("td", "n"), make("td", "n"), make("td"), make("td", "words", make("bdi")));
const newEvent = () => make("li", "", make("time"), make("i"), make("bdi"));

const chronicle = (page) => {
  at("attempts-section").hidden = page.attempts.length === 0;
  rows(at("attempts"), page.attempts, newAttempt, (row, attempt) => {
    set(row.children[0], count(attempt.number));
    set(row.children[1], `${count(attempt.fromStep)} – ${count(attempt.toStep)}`);
    set(row.children[2], attempt.firstCause ?? "–");
    set(row.children[3].firstElementChild, attempt.ended);
  });
  rows(at("events"), [...page.events].reverse(), newEvent, (item, event) => {
    item.className = event.kind;
    set(item.children[0], span(event.seconds));
    set(item.children[1], SIGNS[event.kind] ?? "·");
    set(item.children[2], event.text);
  });
};

const ending = ({ end }) => {
  at("end").hidden = !end;
  if (!end) return;
  at("end").className = end.well ? "notices calm" : "notices";
  set(at("end-head"), `The run has ended: ${end.outcome}`);
  at("end-words").hidden = end.remedy === "";
  set(at("end-words"), `What to do: ${end.remedy}`);
  set(at("end-report"), end.report === null ? "No report could be written." : `Its report is a page of its own, and stays: ${end.report}`);
};

// ---- asking --------------------------------------------------------------------------------------------------------

let shown = 0;
let last = null;

const show = (page) => {
  for (const part of [headline, figures, learning, speed, devices, ledger, chronicle, ending]) part(page);
  last = { page, at: new Date() };
  shown += 1;
  document.documentElement.dataset.updates = shown;
  document.documentElement.dataset.step = page.progress?.step ?? 0;
};

const link = (kind, text) => {
  at("link").className = `link ${kind}`;
  set(at("link"), text);
};

const lost = (reason) => {
  at("lost").hidden = false;
  set(at("lost-head"), "The connection to the run is lost");
  const since = last ? ` What is shown here is from ${last.at.toLocaleTimeString()}.` : "";
  const where = last ? ` If it has ended, its report is ${last.page.about.folder}/report.html.` : "";
  set(at("lost-words"), `${reason}: its program has ended, or cannot be reached.${since}${where} This page goes on trying.`);
  link("lost", "connection lost");
};

const ask = async () => {
  const answer = await fetch("api/v1/run", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
  const page = await answer.json();
  if (page.version !== VERSION) throw new Error(`the document has version ${page.version}; load this page anew`);
  return page;
};

const go = async () => {
  let page;
  try {
    page = await ask();
  } catch (error) {
    lost(error instanceof TypeError ? "Nobody answers" : error.name === "TimeoutError" ? "No answer came" : error.message);
    setTimeout(go, EVERY);
    return;
  }
  show(page);
  at("lost").hidden = true;
  if (page.end) {
    // Nothing will change any more, and the server is about to end.
    link("", "ended");
  } else {
    link("live", "live");
    setTimeout(go, EVERY);
  }
};

go();
