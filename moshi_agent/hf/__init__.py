"""Moshi and Mimi by the names, arguments and defaults of Hugging Face Transformers, on our own models.

`transformers` itself is not needed. Compared with its version 4.57.6; where that departs from the models as
they were trained, these follow the models: `mimi.py`, `causal_lm.py`, `moshi.py` and `losses.py` say where.
"""

from moshi_agent.hf.cache import MoshiCache
from moshi_agent.hf.causal_lm import MoshiForCausalLM, MoshiModel
from moshi_agent.hf.depth import MoshiDepthDecoder
from moshi_agent.hf.features import (
    AutoFeatureExtractor,
    BatchFeature,
    EncodecFeatureExtractor,
    MimiFeatureExtractor,
)
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.mimi import MimiModel
from moshi_agent.hf.mimi_config import MimiConfig
from moshi_agent.hf.moshi import MoshiForConditionalGeneration
from moshi_agent.hf.moshi_config import MoshiConfig, MoshiDepthConfig
from moshi_agent.hf.pretrained import infer_device
from moshi_agent.hf.tokenizer import AutoTokenizer, MoshiTokenizer

__all__ = [
    "AutoFeatureExtractor",
    "AutoTokenizer",
    "BatchFeature",
    "EncodecFeatureExtractor",
    "GenerationConfig",
    "MimiConfig",
    "MimiFeatureExtractor",
    "MimiModel",
    "MoshiCache",
    "MoshiConfig",
    "MoshiDepthConfig",
    "MoshiDepthDecoder",
    "MoshiForCausalLM",
    "MoshiForConditionalGeneration",
    "MoshiModel",
    "MoshiTokenizer",
    "infer_device",
]
