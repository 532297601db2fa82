"""Fine-tunes any Moshi checkpoint on stereo conversations, whole or by low-rank updates.

What is trained and how the losses are weighed follows Kyutai's moshi-finetune, whose configuration files and
data are read as they are. Its users load what is written here as they load their own.
"""
