// Small parts of the page that only show something.

export const $ = (id) => document.getElementById(id);

const DECAY = 0.8; // of a meter, from one picture to the next
const UNCHANGED = 0.01; // of a level

/** The state of the call: idle, connecting, connected or failed, and its words. */
export function showStatus(name, text) {
  $("status").dataset.state = name;
  $("status").textContent = text;
}

export function isConnected() {
  return $("status").dataset.state === "connected";
}

export function showSpeaking(who, speaks) {
  $(`${who}-voice`).dataset.speaking = speaks;
  $(`${who}-doing`).textContent = speaks ? "speaking" : "silent";
}

const shown = { user: 0, bot: 0 };

/** A meter: rises at once, falls slowly. */
export function showLevel(who, level) {
  const smooth = Math.max(level, DECAY * shown[who]);
  if (smooth === shown[who]) return;
  shown[who] = smooth < UNCHANGED ? 0 : smooth;
  const meter = $(`${who}-meter`);
  meter.firstElementChild.style.transform = `scaleX(${shown[who].toFixed(3)})`;
  meter.setAttribute("aria-valuenow", Math.round(100 * shown[who]));
}

/** Tells the user something that has to be read; code stands in backquotes. */
export function notify(paragraphs) {
  $("notice-text").replaceChildren(...paragraphs.map((paragraph) => {
    const place = document.createElement("p");
    paragraph.split("`").forEach((part, index) => {
      place.append(index % 2 ? Object.assign(document.createElement("code"), { textContent: part }) : part);
    });
    return place;
  }));
  $("notice").hidden = false;
}

export function hideNotice() {
  $("notice").hidden = true;
}

/** Tells in large letters that there is nobody at the other end. */
export function showLost(title, text) {
  $("lost-title").textContent = title;
  $("lost-text").textContent = text;
  $("lost").hidden = false;
}

export function hideLost() {
  $("lost").hidden = true;
}

/** What can be chosen for the next call, as far as the model knows it. */
export function showOptions({ greet, role, voices }) {
  $("greet-field").hidden = !greet;
  $("role-field").hidden = !role;
  $("voice-field").hidden = !voices?.length;
  $("voice").replaceChildren($("voice").options[0], ...(voices ?? []).map((voice) => new Option(voice, voice)));
  $("options").hidden = !(greet || role || voices?.length);
}

export function chosenOptions() {
  const options = {};
  if ($("greet").checked) options.greet = true;
  if ($("role").value.trim()) options.role = $("role").value.trim();
  if ($("voice").value) options.voice = $("voice").value;
  return options;
}

/** A button for each question; `ask` is called with the question and its button. The built-in model knows no other. */
export function showQuestions(questions, model, ask) {
  $("questions-title").textContent = `${questions.length} sample questions`;
  $("questions-limit").hidden = model !== "tiny";
  $("questions").replaceChildren(...questions.map((question) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: question.text });
    button.addEventListener("click", () => ask(question, button));
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

export function showMicrophones(found) {
  const chosen = $("devices").value;
  const options = found.filter(({ id }) => id !== "default").map(({ id, label }) => new Option(label, id));
  $("devices").replaceChildren(new Option("Default microphone", ""), ...options);
  if (found.some(({ id }) => id === chosen)) $("devices").value = chosen;
  $("devices-field").hidden = options.length === 0; // nothing to choose from
}

/** Saves a file under the time of day. */
export function download(blob, ending) {
  const link = document.createElement("a");
  const stamp = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  link.href = URL.createObjectURL(blob);
  link.download = `moshi-${stamp}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
