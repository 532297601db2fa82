"""The protocols that clients speak, without sockets and without frameworks.

call_protocol.py  what a protocol is to a call: messages in and out, orders to the engine
kyutai.py         Kyutai's binary protocol
gpt_live.py       OpenAI's full-duplex "GPT-Live"
realtime.py       OpenAI's Realtime protocol, which has turns; realtime_response.py tells one of them
live_audio.py     the audio formats of both
json_events.py    what a message of both holds
event_json.py     the engine's events as JSON
opus.py           Opus in an Ogg stream
ogg.py            Ogg pages
g711.py           mu-law and A-law
"""
