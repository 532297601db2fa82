"""A terminal client for servers that speak Kyutai's protocol: `moshi-agent serve`, and Kyutai's own.

    connection.py   one websocket: audio and text each way
    player.py       what has come and is to be played, and skipping to catch up
    sound.py        microphone and speakers, or audio files in their place
    echo.py         the bot's voice in the microphone
    screen.py       what the terminal shows
    command.py      `moshi-agent talk`

Needs the extra `talk`.
"""
