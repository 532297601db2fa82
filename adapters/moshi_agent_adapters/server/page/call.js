// One WebRTC call: offer and answer, the data channel, and coming back after the network was away.

import { ApiError, getJson } from "./api.js";
import { Signalling } from "./signalling.js";

const GATHERING_MS = 1500; // for the browser's addresses; those found later are sent after the offer
const RESTART_AFTER_MS = 1000; // without a connection
const GIVE_UP_AFTER_MS = 10000;
const WATCH_MS = 250; // between two looks at whether anything comes from the server
const SILENT_MS = 1200; // without a packet, of which there are fifty a second: the server or the path is gone
const PROBE_MS = 3000; // for the server to answer a request

/**
 * Fires: "begun" (the conversation has its place), "reconnecting", "connected" (again), "message" (detail: the
 * event), "track" (detail: the stream), "ended" (detail: {reason, error, resume}; an error is a refusal, and
 * for `resume` the conversation goes on in another call).
 */
export class Call extends EventTarget {
  #peer;
  #channel;
  #sender;
  #signalling = new Signalling((reason, resume) => this.#end(reason, null, resume));
  #isAnswered = false;
  #hasBegun = false;
  #hasEnded = false;
  #isReconnecting = false;
  #received = { packets: 0, at: 0 };
  #watch = 0;
  #timers = new Set();

  /** Calls the server, sending `track`. */
  async start(track, iceServers, options) {
    this.#peer = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.#channel = this.#peer.createDataChannel("events");
    this.#channel.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#peer.ontrack = ({ track: remote }) => this.#fire("track", new MediaStream([remote]));
    this.#peer.onicecandidate = ({ candidate }) => candidate?.candidate && this.#signalling.candidate(candidate.candidate);
    this.#peer.onconnectionstatechange = () => this.#follow(this.#peer.connectionState);
    this.#sender = this.#peer.addTransceiver(track, { direction: "sendrecv" }).sender;
    try {
      const sdp = await this.#signalling.offer(await this.#gatheredOffer(), { ...options, moves: true });
      if (this.#hasEnded) return this.#signalling.hangUp();
      await this.#peer.setRemoteDescription({ type: "answer", sdp });
      this.#isAnswered = true;
    } catch (error) {
      this.#end("refused", error);
    }
  }

  /** Sends another track from now on, without asking the server. */
  async send(track) {
    await this.#sender?.replaceTrack(track);
  }

  /** Round trip, loss and buffer of the connection, where they are known. */
  async figures() {
    const figures = { network_ms: null, buffer_ms: null, lost: 0, received: 0 };
    for (const stats of (await this.#peer.getStats()).values()) {
      if (stats.type === "candidate-pair" && stats.nominated && stats.currentRoundTripTime !== undefined) {
        figures.network_ms = 1000 * stats.currentRoundTripTime;
      }
      if (stats.type === "inbound-rtp" && stats.kind === "audio") {
        figures.lost = stats.packetsLost ?? 0;
        figures.received = stats.packetsReceived ?? 0;
        figures.buffer = { delay_s: stats.jitterBufferDelay ?? 0, count: stats.jitterBufferEmittedCount ?? 0 };
      }
    }
    return figures;
  }

  hangUp() {
    this.#end("hung up");
  }

  /** Comes back on another network path. Called by itself when the path breaks. */
  async restart() {
    if (this.#hasEnded || !this.#isAnswered) return;
    try {
      this.#peer.restartIce();
      const sdp = await this.#signalling.offer(await this.#gatheredOffer());
      await this.#peer.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      if (error.code === "no_such_call") this.#end("lost");
      else this.#later(RESTART_AFTER_MS, () => this.#isReconnecting && this.restart());
    }
  }

  async #gatheredOffer() {
    const peer = this.#peer;
    await peer.setLocalDescription();
    await new Promise((resolve) => {
      if (peer.iceGatheringState === "complete") return resolve();
      peer.addEventListener("icegatheringstatechange", () => peer.iceGatheringState === "complete" && resolve());
      setTimeout(resolve, GATHERING_MS);
    });
    return peer.localDescription.sdp;
  }

  #receive(event) {
    if (event.type === "error" && !this.#hasBegun) return this.#end("refused", new ApiError(0, event.code, event.message));
    if (!this.#hasBegun) this.#begin();
    this.#fire("message", event);
    if (event.type === "error" && event.code.startsWith("engine")) this.#end("error");
    if (event.type === "ended") this.#end(event.reason);
  }

  #begin() {
    this.#hasBegun = true;
    this.#received = { packets: 0, at: performance.now() };
    this.#watch = setInterval(() => this.#look(), WATCH_MS);
    this.#fire("begun");
  }

  /** Notices that nothing comes any more, which the browser itself takes many seconds for. */
  async #look() {
    const { received } = await this.figures();
    const now = performance.now();
    if (this.#hasEnded) return;
    if (received !== this.#received.packets) {
      this.#received = { packets: received, at: now };
      if (this.#isReconnecting && !this.#isAway()) this.#comeBack();
    } else if (now - this.#received.at > SILENT_MS && !this.#isReconnecting) {
      this.#goAway();
    }
  }

  #comeBack() {
    this.#isReconnecting = false;
    this.#clearTimers();
    this.#fire("connected");
  }

  /** Nothing comes: asks the server whether it is there, and comes back to it where it is. */
  async #goAway() {
    this.#isReconnecting = true;
    this.#fire("reconnecting");
    this.#later(GIVE_UP_AFTER_MS, () => this.#isReconnecting && this.#end("lost"));
    try {
      await getJson("/api/webrtc", { signal: AbortSignal.timeout(PROBE_MS) });
    } catch (error) {
      const isRefused = error.status >= 500 || (error.code === "unreachable" && navigator.onLine);
      if (isRefused && this.#isReconnecting) return this.#end("gone");
    }
    if (this.#isReconnecting) this.restart();
  }

  #follow(state) {
    if (state === "connected" && this.#isReconnecting) this.#received.at = performance.now();
    if ((state === "disconnected" || state === "failed") && this.#hasBegun && !this.#isReconnecting) this.#goAway();
    if (state === "failed" && !this.#hasBegun) this.#end("lost");
  }

  #isAway() {
    return !this.#hasEnded && this.#peer.connectionState !== "connected";
  }

  #end(reason, error = null, resume = null) {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#clearTimers();
    clearInterval(this.#watch);
    this.#signalling.hangUp();
    this.#peer.close();
    this.#fire("ended", { reason, error, resume });
  }

  #later(delay_ms, act) {
    this.#timers.add(setTimeout(act, delay_ms));
  }

  #clearTimers() {
    this.#timers.forEach(clearTimeout);
    this.#timers.clear();
  }

  #fire(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
