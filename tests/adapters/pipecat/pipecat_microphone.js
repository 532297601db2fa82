// The devices of Pipecat's page, in place of Daily's device manager, which the page loads from the internet.
window.microphone = {
  track: null,
  setClientOptions() {},
  async initialize() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    [this.track] = stream.getAudioTracks();
  },
  async connect() {
    if (!this.track) await this.initialize();
  },
  async disconnect() {},
  async getAllMics() { return []; },
  async getAllCams() { return []; },
  async getAllSpeakers() { return []; },
  selectedMic: {}, selectedCam: {}, selectedSpeaker: {},
  updateMic() {}, updateCam() {}, updateSpeaker() {},
  enableMic() {}, enableCam() {}, enableScreenShare() {},
  isMicEnabled: true, isCamEnabled: false, isSharingScreen: false, supportsScreenShare: false,
  tracks() { return { local: { audio: this.track } }; },
};
