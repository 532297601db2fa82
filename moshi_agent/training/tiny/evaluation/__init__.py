"""What a trained `tiny` can do, measured inside whole calls with callers who react to what they hear.

A caller asks, listens, waits, interrupts; its channel may carry noise, pass a codec, or bring the bot's own
echo back. `python -m moshi_agent.training.tiny.evaluation --model FOLDER` plays the calls and prints a table.
"""
