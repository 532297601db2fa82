"""The protocols that clients speak, without sockets and without frameworks.

call_protocol.py  what a protocol is to a call: messages in and out, orders to the engine
kyutai.py         Kyutai's binary protocol
gpt_live.py       OpenAI's full-duplex "GPT-Live"
live_audio.py     the audio formats of the latter
event_json.py     the engine's events as JSON
opus.py           Opus in an Ogg stream
ogg.py            Ogg pages
g711.py           mu-law and A-law
"""
