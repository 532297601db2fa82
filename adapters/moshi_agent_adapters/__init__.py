"""Adapters: the engine behind frameworks, servers and clients that people already use.

    pipecat/      a service for Pipecat's pipelines      the extra `pipecat`, or `telephony` without browsers
    webrtc/       calls over WebRTC                      the extra `webrtc`
    server/       `moshi-agent serve`                    the extra `server`
    talk/         `moshi-agent talk`                     the extra `talk`
    protocols/    what websockets carry, without any input or output: for `server` and `talk`
    bot_turn.py   where the bot's continuous speech is cut into turns
    call_log.py   the log's line about each call
    personas.py   the role and the voice that a caller asks for, as far as the model takes them

Nothing is imported here, so that an adapter costs only those who use it.
"""
