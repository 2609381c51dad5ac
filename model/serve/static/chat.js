// The page: one conversation, kept in this browser, with the model of the server it came from.
//
// state.turns is the conversation as the API takes it; it is stored after every change, an answer
// under way included, so that a reload loses nothing. Text from the model is only ever set as text.

const STORE = "llm-from-scratch";
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const $ = (id) => document.getElementById(id);

const state = restored();
let served = null; // the model as /v1/models describes it
let writing = null; // the AbortController of the answer under way

function restored() {
  const fresh = { turns: [], settings: {} };
  try {
    return { ...fresh, ...JSON.parse(localStorage.getItem(STORE)) };
  } catch {
    return fresh;
  }
}

function store() {
  try {
    localStorage.setItem(STORE, JSON.stringify(state));
  } catch {
    // a private window or a full store: the conversation lives as long as the page
  }
}

// ---- what is seen

function turnElement(turn) {
  const element = document.createElement("article");
  element.className = `turn ${turn.role}`;
  const who = document.createElement("h2");
  who.textContent = turn.role === "user" ? "You" : "Model";
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = turn.content;
  element.append(who, text);
  if (turn.note) element.append(noteElement(turn.note));
  return element;
}

function noteElement(note) {
  const element = document.createElement("p");
  element.className = note.fault ? "note fault" : "note";
  if (note.fault) element.setAttribute("role", "alert");
  element.textContent = note.text;
  return element;
}

function show() {
  for (const element of document.querySelectorAll(".turn")) element.remove();
  $("log").append(...state.turns.map(turnElement));
  $("empty").hidden = state.turns.length > 0;
  $("log").scrollTop = $("log").scrollHeight;
}

function showWriting(isWriting) {
  $("send").hidden = isWriting;
  $("stop").hidden = !isWriting;
  $("log").setAttribute("aria-busy", String(isWriting));
}

function fitInput() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
}

// ---- the server

function headers() {
  const key = state.settings.key;
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await failure(response));
    served = (await response.json()).data[0];
    $("model").textContent = `${served.id} · ${served.context_tokens} tokens of context`;
    showUsual();
  } catch (error) {
    served = null;
    $("model").textContent = `not connected: ${error.message}`;
  }
}

function question() {
  // Turns without text (a stopped or failed answer) tell the model nothing.
  const turns = state.turns
    .filter((turn) => turn.content)
    .map(({ role, content }) => ({ role, content }));
  const system = state.settings.system?.trim();
  const chosen = NUMBERS.map((name) => [name, state.settings[name]]);
  return {
    model: served.id,
    stream: true,
    stream_options: { include_usage: true },
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    ...Object.fromEntries(chosen.filter(([, value]) => value !== undefined && value !== "")),
  };
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(text) {
  state.turns.push({ role: "user", content: text });
  store();
  show();
  await answer();
}

async function answer() {
  const turn = { role: "assistant", content: "" };
  writing = new AbortController();
  showWriting(true);
  let element = null;
  try {
    if (!served) await connect();
    if (!served) throw new Error("the server does not answer; is it running?");
    const body = JSON.stringify(question());
    state.turns.push(turn);
    element = turnElement(turn);
    element.classList.add("writing");
    $("log").append(element);
    const options = { method: "POST", headers: headers(), body, signal: writing.signal };
    const response = await fetch("v1/chat/completions", options);
    if (!response.ok) {
      if (response.status === 404) served = null; // another model is served now: ask which
      throw new Error(await failure(response));
    }
    await receive(response, turn, element.querySelector(".text"));
  } catch (error) {
    const wasStopped = error.name === "AbortError";
    if (!element) state.turns.push(turn);
    turn.note = wasStopped ? { text: "stopped" } : { text: error.message, fault: true };
  } finally {
    writing = null;
    showWriting(false);
    store();
    show();
    $("input").focus();
  }
}

async function receive(response, turn, element) {
  const started = performance.now();
  let usage = null;
  let finish = null;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    usage = event.usage ?? usage;
    const choice = event.choices[0];
    if (!choice) continue;
    finish = choice.finish_reason ?? finish;
    const piece = choice.delta.content;
    if (!piece) continue;
    const log = $("log");
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    turn.content += piece;
    element.textContent = turn.content;
    if (isAtEnd) log.scrollTop = log.scrollHeight;
    store();
  }
  if (!finish) throw new Error("the connection broke; this answer is not complete");
  const seconds = (performance.now() - started) / 1000;
  const speed = usage ? `${usage.completion_tokens} tokens, ${(usage.completion_tokens / seconds).toFixed(0)}/s` : "";
  turn.note = { text: finish === "length" ? `${speed}; cut at its longest` : speed };
}

// ---- settings

function showUsual() {
  for (const [name, value] of Object.entries(served?.sampling ?? {})) {
    const input = $("settings").querySelector(`[name=${name}]`);
    if (input) input.placeholder = value;
  }
}

function showSettings() {
  for (const input of $("settings").querySelectorAll("[name]")) {
    input.value = state.settings[input.name] ?? "";
  }
  document.documentElement.dataset.theme = state.settings.theme ?? "";
}

function takeSetting({ target }) {
  if (!target.name || !target.checkValidity()) return;
  const isNumber = NUMBERS.includes(target.name) && target.value !== "";
  state.settings[target.name] = isNumber ? Number(target.value) : target.value;
  document.documentElement.dataset.theme = state.settings.theme ?? "";
  store();
}

// ---- what the user does

function send(event) {
  event?.preventDefault();
  const text = $("input").value.trim();
  if (!text || writing) return;
  $("input").value = "";
  fitInput();
  ask(text);
}

function startAnew() {
  writing?.abort();
  state.turns = [];
  store();
  show();
  $("input").focus();
}

function onKey(event) {
  if (event.key === "Escape" && writing && !$("settings").open) writing.abort();
  else if (event.altKey && event.code === "KeyN") startAnew();
  else if (event.altKey && event.code === "KeyS") $("settings").showModal();
  else return;
  event.preventDefault();
}

function onInputKey(event) {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
}

$("compose").addEventListener("submit", send);
$("input").addEventListener("keydown", onInputKey);
$("input").addEventListener("input", fitInput);
$("stop").addEventListener("click", () => writing?.abort());
$("new").addEventListener("click", startAnew);
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("settings").addEventListener("input", takeSetting);
$("settings").addEventListener("close", connect); // the key may be another one now
$("usual").addEventListener("click", () => {
  for (const name of NUMBERS) delete state.settings[name];
  store();
  showSettings();
});
document.addEventListener("keydown", onKey);

for (const turn of state.turns) {
  if (turn.role === "assistant" && !turn.note) turn.note = { text: "cut by leaving the page" };
}
showSettings();
show();
connect();
