// What was said, turn by turn. The bot's words come one by one, the caller's where a recogniser listens; else
// only the caller's times are known.

const SAME_TURN_MS = 1500; // a shorter pause of the bot does not end its turn
const SHORTEST_UTTERANCE_S = 0.3; // of the caller, to be noted

export class Transcript {
  #list;
  #announcer;
  #turns = []; // {who, text, at, element}
  #botTurn = null;
  #botStoppedAt = 0; // 0 while it speaks
  #userTurn = null;
  #heardTurn = null; // of the caller, whose words are still coming
  #lookup = null; // {id, note}, while something is looked up
  #isHeard = true; // what the caller says is not known otherwise
  #startedAt = Date.now();

  /** `list` shows the turns, `announcer` is read out by screen readers: whole sentences only. */
  constructor(list, announcer) {
    this.#list = list;
    this.#announcer = announcer;
  }

  clear() {
    this.#list.replaceChildren();
    this.#turns = [];
    this.#botTurn = this.#userTurn = this.#heardTurn = this.#lookup = null;
    this.#isHeard = true;
    this.#botStoppedAt = 0;
    this.#startedAt = Date.now();
  }

  get isEmpty() {
    return this.#turns.length === 0;
  }

  /** A piece of the bot's inner monologue. */
  addBotText(piece) {
    if (this.#botStoppedAt && Date.now() - this.#botStoppedAt > SAME_TURN_MS) this.#endBotTurn();
    if (this.#botTurn === null) {
      this.#botTurn = this.#add("bot", "");
      this.#botStoppedAt = 0;
    }
    this.#botTurn.text += piece;
    this.#botTurn.body.textContent = this.#botTurn.text.trimStart();
    this.#scroll();
  }

  botStarted() {
    this.#botStoppedAt = 0;
    this.#botTurn?.element.classList.add("live");
  }

  botStopped() {
    this.#botStoppedAt = Date.now();
    if (this.#botTurn === null) return;
    this.#botTurn.element.classList.remove("live");
    this.#announcer.textContent = `Moshi: ${this.#botTurn.text.trim()}`;
  }

  interrupted() {
    this.#botTurn?.body.append(Object.assign(document.createElement("span"), { className: "broken", textContent: " …" }));
    this.#endBotTurn();
  }

  /** The caller says something that is known: a sample question. */
  addUser(text) {
    if (this.#botStoppedAt) this.#endBotTurn();
    this.#add("user", text).hasWords = true;
  }

  /** The caller begins at `media_s`; what the bot says from now on answers it. Noted if it is not known otherwise. */
  userStarted(media_s, isUnknown) {
    if (this.#botStoppedAt) this.#endBotTurn();
    this.#isHeard = isUnknown;
    this.#userTurn = isUnknown ? { ...this.#add("user", "speaking…"), media_s } : null;
  }

  /** A piece of what the caller says; it comes later than the sound of it. */
  addUserText(piece) {
    if (!this.#isHeard) return;
    if (this.#heardTurn === null) {
      const last = this.#turns.findLast(({ who }) => who === "user");
      this.#heardTurn = last && !last.hasWords ? last : this.#add("user", "");
      Object.assign(this.#heardTurn, { text: "", hasWords: true });
    }
    this.#heardTurn.text += piece;
    this.#heardTurn.body.textContent = this.#heardTurn.text.trimStart();
    this.#scroll();
  }

  /** All that the caller has said since the last time: the words in the transcript are complete. */
  userSaid() {
    this.#heardTurn = null;
  }

  userStopped(media_s) {
    if (this.#userTurn === null) return;
    const { element, body, media_s: began } = this.#userTurn;
    const turn = this.#turns.find((other) => other.element === element);
    if (turn.hasWords) {
      this.#userTurn = null;
      return;
    }
    turn.text = body.textContent = `spoke for ${(media_s - began).toFixed(1)} s`;
    this.#userTurn = null;
    if (media_s - began >= SHORTEST_UTTERANCE_S) return;
    element.remove();
    this.#turns = this.#turns.filter((other) => other !== turn);
  }

  /** The call is over. */
  finish() {
    this.#endBotTurn();
    if (this.#lookup) this.lookedUp(this.#lookup.id, "The call ended before anything was found.");
    if (this.#userTurn && this.#userTurn.element !== this.#heardTurn?.element) this.#userTurn.element.remove();
    this.#heardTurn = null;
    this.#turns = this.#turns.filter(({ element }) => element.isConnected);
    this.#userTurn = null;
  }

  addNote(text) {
    this.#endBotTurn();
    return this.#add("note", text);
  }

  /** Something is looked up: request `id`. */
  lookUp(id) {
    this.#lookup = { id, note: this.addNote("Looking something up…") };
    this.#lookup.note.element.classList.add("live");
  }

  /** Request `id` is over; `text` says how. */
  lookedUp(id, text) {
    if (this.#lookup?.id !== id) return;
    const { note } = this.#lookup;
    note.element.classList.remove("live");
    note.text = note.body.textContent = text;
    this.#announcer.textContent = text;
    this.#lookup = null;
  }

  /** All of it as plain text. */
  text() {
    const names = { user: "You", bot: "Moshi", note: "" };
    const lines = this.#turns.map(({ who, text, at }) =>
      `[${clock((at - this.#startedAt) / 1000)}] ${names[who]}${names[who] ? ": " : ""}${text.trim()}`);
    return `${lines.join("\n")}\n`;
  }

  #endBotTurn() {
    this.#botTurn?.element.classList.remove("live");
    this.#botTurn = null;
  }

  #add(who, text) {
    const element = document.createElement("li");
    element.className = `turn ${who}`;
    const body = document.createElement("span");
    body.textContent = text;
    if (who !== "note") element.append(label(who));
    element.append(body);
    if (who === "bot") element.classList.add("live");
    this.#list.append(element);
    const turn = { who, text, at: Date.now(), element, body };
    this.#turns.push(turn);
    this.#scroll();
    return turn;
  }

  #scroll() {
    const log = this.#list.parentElement;
    log.scrollTop = log.scrollHeight;
  }
}

function label(who) {
  const name = who === "bot" ? "Moshi" : "You";
  return Object.assign(document.createElement("span"), { className: "who", textContent: name });
}

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  return `${String(Math.floor(whole / 60)).padStart(2, "0")}:${String(whole % 60).padStart(2, "0")}`;
}
