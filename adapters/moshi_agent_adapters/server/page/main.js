// The page: one call at a time, its controls, and everything that shows how it goes.

import { adoptTokenFromAddress, getBytes, getJson, setToken } from "./api.js";
import { Call } from "./call.js";
import { Figures } from "./figures.js";
import { howToAllow, isAllowed, listMicrophones, openMicrophone } from "./microphone.js";
import { Recorder } from "./recorder.js";
import { Sound } from "./sound.js";
import { Timeline } from "./timeline.js";
import { Transcript } from "./transcript.js";
import { end, found, refusal } from "./words.js";
import {
  $, chosenOptions, download, hideLost, hideNotice, isConnected, notify, showLevel, showLost, showMicrophones,
  showOptions, showQuestions, showSpeaking, showStatus,
} from "./view.js";

const PICTURE_MS = 50; // between two pictures of levels and timeline

const timeline = new Timeline($("timeline"));
const transcript = new Transcript($("turns"), $("spoken"));
const figures = new Figures();
const recorder = new Recorder();

const state = {
  info: null, // what the server says of itself
  sound: null, // made in the first click: browsers allow no sound before
  call: null,
  microphone: null, // its track
  isMuted: false,
  question: null, // the one that is being played
  speaking: { user: false, bot: false },
};

// The server

async function load() {
  try {
    state.info = await getJson("/api/webrtc");
    showQuestions(await getJson("/questions/index.json"), state.info.model, ask);
  } catch (error) {
    if (error.status === 401) return askForToken();
    return notify([refusal(error)]);
  }
  $("token-form").hidden = true;
  $("model").textContent = state.info.model;
  $("model").hidden = false;
  showOptions(state.info.options);
}

function askForToken(message = "") {
  $("token-form").hidden = false;
  $("token-error").textContent = message;
  $("token").focus();
}

$("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  await load();
  if (!$("token-form").hidden) askForToken("The server does not know this token.");
});

// The call

$("call").addEventListener("click", () => (state.call ? state.call.hangUp() : begin({ withMicrophone: true })));

async function begin({ withMicrophone }) {
  hideNotice();
  hideLost();
  showStatus("connecting", "Connecting…");
  const call = new Call();
  state.call = call;
  showCall();
  try {
    state.sound ??= new Sound();
    await state.sound.start();
    if (withMicrophone) await useMicrophone();
    if (state.call !== call) return;
    listen(call);
    call.addEventListener("begun", startAnew);
    await call.start(state.microphone ?? state.sound.deskTrack, state.info?.ice_servers ?? [], chosenOptions());
  } catch (error) {
    over(call, { reason: "refused", error });
  }
}

/** The conversation has begun: what is shown of the one before goes, which a refusal would have kept. */
async function startAnew() {
  transcript.clear();
  timeline.clear();
  figures.clear();
  $("empty").hidden = true;
  showStatus("connected", "Connected");
  await recorder.start(await state.sound.start(), state.sound.user, state.sound.bot);
}

/** The server ends, and another one has the conversation: calls that, and nothing of it is gone. */
async function goOn(resume) {
  const call = new Call();
  state.call = call;
  listen(call);
  call.addEventListener("begun", () => showStatus("connected", "Connected"));
  await call.start(state.microphone ?? state.sound.deskTrack, state.info?.ice_servers ?? [], { resume });
}

function listen(call) {
  call.addEventListener("connected", () => {
    hideLost();
    showStatus("connected", "Connected");
  });
  call.addEventListener("reconnecting", () => {
    silence();
    showStatus("connecting", "Reconnecting…");
    showLost(end("lost"), "Trying to get back to the call…");
  });
  call.addEventListener("message", ({ detail }) => reactions[detail.type]?.(detail));
  call.addEventListener("ended", ({ detail }) => over(call, detail));
  call.addEventListener("track", ({ detail }) => {
    $("speaker").srcObject = detail;
    $("speaker").play().catch(() => {}); // the click that called allows it
    state.sound.setRemote(detail);
  });
}

/** Nobody is heard any more. */
function silence() {
  setSpeaking("user", false);
  setSpeaking("bot", false);
  transcript.finish();
}

function over(call, { reason, error, resume }) {
  if (state.call !== call) return;
  if (resume) return goOn(resume);
  state.call = null;
  recorder.stop();
  closeMicrophone();
  state.sound?.setRemote(null);
  $("speaker").srcObject = null;
  silence();
  hideLost();
  if (error) {
    showStatus("failed", "Not connected");
    if (error.status === 401) askForToken();
    else notify([refusal(error)]);
  } else if (reason === "hung up") {
    showStatus("idle", "Call ended");
  } else {
    showStatus("failed", "Call ended");
    showLost(end(reason), "The call is over. What was said stays here until you call again.");
    transcript.addNote(end(reason));
  }
  showCall();
}

$("call-again").addEventListener("click", () => {
  state.call?.hangUp();
  begin({ withMicrophone: true });
});

addEventListener("pagehide", () => state.call?.hangUp());
addEventListener("online", () => state.call?.restart()); // another network: another path

function showCall() {
  const live = state.call !== null;
  $("call").textContent = live ? "Hang up" : "Call";
  $("call").dataset.live = live;
  $("microphone").disabled = !live;
  $("microphone").textContent = live && !state.microphone ? "Use microphone" : state.isMuted ? "Unmute" : "Mute";
  $("microphone").setAttribute("aria-pressed", String(Boolean(state.microphone) && state.isMuted));
  $("download-audio").disabled = recorder.isEmpty;
  $("download-text").disabled = transcript.isEmpty;
}

// What happens in the conversation

const reactions = {
  stats(event) {
    figures.setServer(event);
    showCall();
  },
  text_token(event) {
    figures.setModelDelay(event.aligned_frame - event.frame);
    transcript.addBotText(event.text);
  },
  bot_started() {
    setSpeaking("bot", true);
    transcript.botStarted();
  },
  bot_stopped() {
    setSpeaking("bot", false);
    transcript.botStopped();
  },
  user_started(event) {
    setSpeaking("user", true);
    transcript.userStarted(event.media_s, state.question === null && state.microphone !== null);
  },
  user_stopped(event) {
    setSpeaking("user", false);
    transcript.userStopped(event.media_s);
  },
  user_text: (event) => transcript.addUserText(event.text),
  user_said: () => transcript.userSaid(),
  interrupted: () => transcript.interrupted(),
  reference_wanted: (event) => transcript.lookUp(event.id),
  reference_ended: (event) => transcript.lookedUp(event.id, found(event)),
  context_refreshed: () => transcript.addNote("The model begins anew."),
};

function setSpeaking(who, speaks) {
  state.speaking[who] = speaks;
  showSpeaking(who, speaks);
}

// The microphone

async function useMicrophone() {
  if (!isAllowed()) {
    notify(howToAllow());
    return;
  }
  try {
    const track = await openMicrophone($("devices").value);
    state.microphone?.stop();
    state.microphone = track;
    state.isMuted = false;
    state.sound.setMicrophone(track);
    if (state.question === null) await state.call?.send(track);
    await showDevices();
  } catch (error) {
    notify(error.paragraphs ?? [error.message]);
  }
  showCall();
}

function closeMicrophone() {
  state.microphone?.stop();
  state.microphone = null;
  state.isMuted = false;
  state.sound?.setMicrophone(null);
}

$("microphone").addEventListener("click", () => {
  if (!state.microphone) return useMicrophone();
  state.isMuted = !state.isMuted;
  applyMute();
  showCall();
});

function applyMute() {
  if (state.microphone) state.microphone.enabled = !state.isMuted && state.question === null;
}

async function showDevices() {
  showMicrophones(await listMicrophones());
}

$("devices").addEventListener("change", () => state.call && useMicrophone());
navigator.mediaDevices?.addEventListener?.("devicechange", showDevices);

// Sample questions

async function ask(question, button) {
  if (state.question !== null) return;
  state.question = question;
  button.setAttribute("aria-busy", "true");
  try {
    if (!state.call) await begin({ withMicrophone: false });
    const call = state.call;
    if (call && (await untilConnected(call))) await play(call, question);
  } catch (error) {
    notify([`The question cannot be played: ${error.message}`]);
  } finally {
    button.removeAttribute("aria-busy");
    state.question = null;
    applyMute();
  }
}

async function play(call, question) {
  const sound = state.sound;
  const recording = await sound.decode(await getBytes(`/questions/${question.file}`));
  applyMute(); // the loudspeaker says the question too
  await call.send(sound.deskTrack);
  transcript.addUser(question.text);
  await sound.play(recording);
  if (state.call === call && state.microphone) await call.send(state.microphone);
}

function untilConnected(call) {
  if (isConnected()) return true;
  return new Promise((resolve) => {
    for (const name of ["begun", "connected"]) call.addEventListener(name, () => resolve(true), { once: true });
    call.addEventListener("ended", () => resolve(false), { once: true });
  });
}

// The rest

$("download-audio").addEventListener("click", () => download(recorder.wav(), "wav"));
$("download-text").addEventListener("click", () => download(new Blob([transcript.text()], { type: "text/plain" }), "txt"));
$("notice-close").addEventListener("click", hideNotice);

let drawnAt = 0;

function animate(now_ms) {
  requestAnimationFrame(animate);
  if (now_ms - drawnAt < PICTURE_MS) return;
  drawnAt = now_ms;
  const levels = (state.call && state.sound?.levels()) || { user: 0, bot: 0 };
  showLevel("user", levels.user);
  showLevel("bot", levels.bot);
  if (!state.call) return;
  figures.hear(now_ms, levels);
  timeline.add(now_ms / 1000, { ...levels, userSpeaks: state.speaking.user, botSpeaks: state.speaking.bot });
  timeline.draw(now_ms / 1000);
}

setInterval(async () => {
  if (state.call && isConnected()) figures.setConnection(await state.call.figures());
}, 1000);

adoptTokenFromAddress();
timeline.clear();
requestAnimationFrame(animate);
showDevices();
if (!isAllowed()) notify(howToAllow());
load();
