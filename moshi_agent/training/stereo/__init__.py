"""Reads conversations to fine-tune on, in the layout of Kyutai's moshi-finetune.

A manifest, `data.jsonl`, has one `{"path": "calls/a.wav", "duration": 24.5}` for each conversation. The audio
is stereo: what Moshi says on the left, what the user says on the right. Beside it, `calls/a.json` has what is
said and when: `{"alignments": [["hello", [0.4, 0.8], "SPEAKER_MAIN"], ...], "text_conditions": {...}}`.
Where Moshi speaks first because it was asked to (`Conversation(greet=True)`), `"greets": true` stands there.
"""
