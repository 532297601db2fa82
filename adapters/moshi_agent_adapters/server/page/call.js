// One WebRTC call: offer and answer, the data channel, and coming back after the network was away.

import { sendJson } from "./api.js";

const GATHERING_MS = 1500; // for the browser's addresses; those found later are not missed
const RESTART_AFTER_MS = 1000; // without a connection
const GIVE_UP_AFTER_MS = 10000;
const LOST = "The connection was lost, and the call is over. Call again to begin a new one.";

/**
 * Fires: "connected", "reconnecting", "message" (detail: the event), "track" (detail: the stream),
 * "ended" (detail: {reason, error}).
 */
export class Call extends EventTarget {
  #peer;
  #channel;
  #sender;
  #id = null;
  #hasEnded = false;
  #timers = new Set();

  /** Calls the server, sending `track`. Throws ApiError. */
  async start(track, iceServers, options) {
    this.#peer = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.#channel = this.#peer.createDataChannel("events");
    this.#channel.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#peer.ontrack = ({ track: remote }) => this.#fire("track", new MediaStream([remote]));
    this.#peer.onconnectionstatechange = () => this.#follow(this.#peer.connectionState);
    this.#sender = this.#peer.addTransceiver(track, { direction: "sendrecv" }).sender;
    try {
      const sdp = await this.#gatheredOffer();
      const answer = await sendJson("POST", "/api/webrtc", { sdp, options });
      this.#id = answer.id;
      if (this.#hasEnded) return this.#hangUpServer();
      await this.#peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    } catch (error) {
      this.#end("failed", error);
      throw error;
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
    this.#hangUpServer();
    this.#end("hung up");
  }

  /** Comes back on another network path. Called by itself when the path breaks. */
  async restart() {
    if (this.#hasEnded || this.#id === null) return;
    try {
      this.#peer.restartIce();
      const sdp = await this.#gatheredOffer();
      const answer = await sendJson("PATCH", `/api/webrtc/${this.#id}`, { sdp });
      await this.#peer.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    } catch (error) {
      if (error.status === 404) this.#end("failed", new Error(LOST));
      else this.#later(RESTART_AFTER_MS, () => this.#isAway() && this.restart());
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
    this.#fire("message", event);
    if (event.type === "error" && event.code.startsWith("engine")) this.#end("failed", new Error(event.message));
    if (event.type === "ended") this.#end(event.reason, event.error ? new Error(event.error) : null);
  }

  #follow(state) {
    if (state === "connected") {
      this.#clearTimers();
      this.#fire("connected");
    } else if (state === "disconnected" || state === "failed") {
      this.#fire("reconnecting");
      this.#later(state === "failed" ? 0 : RESTART_AFTER_MS, () => this.#isAway() && this.restart());
      this.#later(GIVE_UP_AFTER_MS, () => this.#isAway() && this.#end("failed", new Error(LOST)));
    }
  }

  #isAway() {
    return !this.#hasEnded && this.#peer.connectionState !== "connected";
  }

  #hangUpServer() {
    if (this.#id === null) return;
    sendJson("DELETE", `/api/webrtc/${this.#id}`, undefined, { keepalive: true }).catch(() => {});
    this.#id = null;
  }

  #end(reason, error = null) {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#clearTimers();
    this.#peer.close();
    this.#fire("ended", { reason, error });
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
