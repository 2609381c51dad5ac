// Chat page: one conversation with the server's model, kept in this browser.
//
// state.turns has the messages of the API; it is stored after every change, also while an answer
// streams, so that a reload loses nothing. Text of the model is set as text, never as HTML.

const STORE = "llm-from-scratch";
const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"];
const $ = (id) => document.getElementById(id);

const state = restored();
let model = null; // entry of /v1/models
let pending = null; // AbortController of the streaming answer

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

// ---- rendering

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

function showPending(isPending) {
  $("send").hidden = isPending;
  $("stop").hidden = !isPending;
  $("log").setAttribute("aria-busy", String(isPending));
}

function fitInput() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
}

// ---- API

function headers() {
  const key = state.settings.key;
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function errorMessage(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function connect() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await errorMessage(response));
    model = (await response.json()).data[0];
    $("model").textContent = `${model.id} · ${model.context_tokens} tokens of context`;
    showDefaults();
  } catch (error) {
    model = null;
    $("model").textContent = `not connected: ${error.message}`;
  }
}

function requestBody() {
  // Turns without text (stopped or failed answers) are left out.
  const turns = state.turns
    .filter((turn) => turn.content)
    .map(({ role, content }) => ({ role, content }));
  const system = state.settings.system?.trim();
  const settings = NUMBERS.map((name) => [name, state.settings[name]]);
  return {
    model: model.id,
    stream: true,
    stream_options: { include_usage: true },
    messages: [...(system ? [{ role: "system", content: system }] : []), ...turns],
    ...Object.fromEntries(settings.filter(([, value]) => value !== undefined && value !== "")),
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
  pending = new AbortController();
  showPending(true);
  let element = null;
  try {
    if (!model) await connect();
    if (!model) throw new Error("no connection to the server; is it running?");
    const body = JSON.stringify(requestBody());
    state.turns.push(turn);
    element = turnElement(turn);
    element.classList.add("streaming");
    $("log").append(element);
    const options = { method: "POST", headers: headers(), body, signal: pending.signal };
    const response = await fetch("v1/chat/completions", options);
    if (!response.ok) {
      if (response.status === 404) model = null; // another model is loaded now: ask which
      throw new Error(await errorMessage(response));
    }
    await receive(response, turn, element.querySelector(".text"));
  } catch (error) {
    const wasStopped = error.name === "AbortError";
    if (!element) state.turns.push(turn);
    turn.note = wasStopped ? { text: "stopped" } : { text: error.message, fault: true };
  } finally {
    pending = null;
    showPending(false);
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
  if (!finish) throw new Error("connection lost; this answer is incomplete");
  const seconds = (performance.now() - started) / 1000;
  const speed = usage ? `${usage.completion_tokens} tokens, ${(usage.completion_tokens / seconds).toFixed(0)}/s` : "";
  turn.note = { text: finish === "length" ? `${speed}; max tokens reached` : speed };
}

// ---- settings

function showDefaults() {
  for (const [name, value] of Object.entries(model?.sampling ?? {})) {
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

// ---- user actions

function send(event) {
  event?.preventDefault();
  const text = $("input").value.trim();
  if (!text || pending) return;
  $("input").value = "";
  fitInput();
  ask(text);
}

function newConversation() {
  pending?.abort();
  state.turns = [];
  store();
  show();
  $("input").focus();
}

function onKey(event) {
  if (event.key === "Escape" && pending && !$("settings").open) pending.abort();
  else if (event.altKey && event.code === "KeyN") newConversation();
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
$("stop").addEventListener("click", () => pending?.abort());
$("new").addEventListener("click", newConversation);
$("open-settings").addEventListener("click", () => $("settings").showModal());
$("settings").addEventListener("input", takeSetting);
$("settings").addEventListener("close", connect); // the key may have changed
$("defaults").addEventListener("click", () => {
  for (const name of NUMBERS) delete state.settings[name];
  store();
  showSettings();
});
document.addEventListener("keydown", onKey);

for (const turn of state.turns) {
  if (turn.role === "assistant" && !turn.note) turn.note = { text: "interrupted by leaving the page" };
}
showSettings();
show();
connect();
