"""`MoshiForConditionalGeneration` as Transformers has it: codec, temporal and depth transformer in one model.

Where the two differ, this is the model as it was trained (compared with transformers 4.57.6):

- losses: a step predicts the next step's tokens (`losses.py`); there, text labels are shifted twice and audio
  labels not at all. `loss_alignment="transformers"` computes theirs;
- `audio_labels` count without `text_labels`, the text being that of `input_ids`; there, they are passed over;
- the windows of the codec and of the temporal transformer always hold (`mimi.py`, `causal_lm.py`);
- `last_hidden_state` keeps its shape with labels; what there are the depth decoder's past and hidden states,
  which are the temporal transformer's, is not returned;
- `generate` takes the caller's audio beyond the history, and feeds it while the model speaks.
"""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from moshi_agent.checkpoint.format import CheckpointFiles
from moshi_agent.checkpoint.models import build_lm, fill_mimi
from moshi_agent.checkpoint.transformers.config import read_moshi_config
from moshi_agent.checkpoint.transformers.files import CODEC_PREFIX
from moshi_agent.checkpoint.transformers.names import mimi_pairings, moshi_pairings, to_theirs
from moshi_agent.errors import InputError
from moshi_agent.hf import delay_pattern
from moshi_agent.hf.cache import MoshiCache
from moshi_agent.hf.causal_lm import MoshiForCausalLM
from moshi_agent.hf.config_base import PretrainedConfig
from moshi_agent.hf.decoding import decode
from moshi_agent.hf.depth import MoshiDepthDecoder
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.losses import IGNORED, Alignment, check_alignment, delayed, text_loss
from moshi_agent.hf.mimi import MimiModel
from moshi_agent.hf.moshi_config import MoshiConfig
from moshi_agent.hf.outputs import (
    MoshiConditionalGenerationGenerateOutput,
    MoshiConditionalGenerationOutputWithPast,
    MoshiDepthOutput,
    MoshiUnconditionalInput,
)
from moshi_agent.hf.pretrained import PreTrainedModel
from moshi_agent.hf.sources import refuse_references
from moshi_agent.hf.speech_generation import generate_speech
from moshi_agent.hf.speech_inputs import SpeechInputs
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.cuda_graphs import GraphDevice


class MoshiForConditionalGeneration(PreTrainedModel):
    """Listens and speaks: the whole model, with random weights unless it comes from `from_pretrained`.

    Raises:
        ConfigError: a configuration that our models cannot have.
    """

    config_class = MoshiConfig
    config: MoshiConfig
    can_generate = True
    cuda_graphs: GraphDevice | bool = True  # False: `generate` launches every kernel by itself on CUDA, too

    def __init__(
        self, config: MoshiConfig, lm: LMModel | None = None, audio_encoder: MimiModel | None = None
    ) -> None:
        super().__init__(config)
        if lm is None:
            lm = LMModel(read_moshi_config(config.to_dict())).eval()
            lm.init_weights()
        self.lm = lm
        self.audio_encoder = audio_encoder or MimiModel(config.audio_encoder_config)
        self.generation_config = GenerationConfig()

    @classmethod
    def read(cls, config: PretrainedConfig, files: CheckpointFiles, dtype: torch.dtype) -> Self:
        assert isinstance(config, MoshiConfig)
        lm_config = files.read_lm_config()
        assert lm_config is not None, "its configuration is one of a language model"
        refuse_references(lm_config, files)
        codec = fill_mimi(files.read_mimi_config(), files.read_mimi(), "cpu")
        lm = build_lm(lm_config, files.read_lm(), dtype=dtype, lora_path=files.lora_weights)
        return cls(config, lm, MimiModel(config.audio_encoder_config, codec))

    def theirs(self) -> dict[str, Tensor]:
        codec = self.audio_encoder.codec
        tensors = codec.state_dict()
        named = to_theirs(mimi_pairings(tensors, codec.config.transformer, CODEC_PREFIX), tensors)
        return to_theirs(moshi_pairings(self.lm.config), self.lm.state_dict()) | named

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type of the language model's weights."""
        return self.lm.dtype

    @property
    def num_codebooks(self) -> int:
        return self.config.num_codebooks

    @property
    def decoder(self) -> MoshiForCausalLM:
        """Returns the temporal transformer as a model of text, with the weights of this one."""
        decoder = MoshiForCausalLM(self.config, self.lm).train(self.training)
        decoder.cuda_graphs = self.cuda_graphs
        return decoder

    @property
    def depth_decoder(self) -> MoshiDepthDecoder:
        """Returns the depth transformer, with the weights of this model."""
        return MoshiDepthDecoder(self.config.depth_decoder_config, self.lm).train(self.training)

    def get_audio_encoder(self) -> MimiModel:
        return self.audio_encoder

    def get_depth_decoder(self) -> MoshiDepthDecoder:
        return self.depth_decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.lm.text_emb

    def get_output_embeddings(self) -> nn.Module:
        return self.lm.text_linear

    def freeze_audio_encoder(self) -> None:
        self.audio_encoder.requires_grad_(False)

    def freeze_depth_decoder(self) -> None:
        for name, parameter in self.lm.named_parameters():
            if name.startswith(("depformer", "linears")):
                parameter.requires_grad_(False)

    def gradient_checkpointing_enable(self) -> None:
        """Recomputes layers in the backward pass rather than keep them."""
        self.lm.transformer.checkpointing = self.lm.depformer.checkpointing = True

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        past_key_values: MoshiCache | None = None,
        inputs_embeds: Tensor | None = None,
        text_labels: Tensor | None = None,
        audio_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        loss_alignment: Alignment = "model",
    ) -> MoshiConditionalGenerationOutputWithPast | tuple[Any, ...]:
        """Computes the logits of a conversation that is known, and its losses.

        Codes are read as they are given, step by step: delay them before (`build_delay_pattern_mask`), as
        `generate` does.

        Args:
            input_ids: [B, T] text.
            attention_mask: [B, past + T], 0 where a row is padded on the left or on the right.
            user_input_values, moshi_input_values: [B, 1, samples], where codes are not given.
            user_audio_codes, moshi_audio_codes: [B, K, T].
            past_key_values: what was read before; changed in place.
            inputs_embeds: [B, T, hidden_size], instead of all of the above.
            text_labels: [B, T], shifted inside, -100 for none; may be `input_ids`.
            audio_labels: [B, K, T] codes of the model, delayed and shifted inside, -100 for none.
            loss_alignment: `model`, or `transformers` for what that library computes (`losses.py`).

        Raises:
            InputError: inputs that are missing, of different lengths or out of range; `output_attentions`.
        """
        check_alignment(loss_alignment)
        if inputs_embeds is None:
            values = (user_input_values, user_audio_codes, moshi_input_values, moshi_audio_codes)
            inputs_embeds = self.lm.embed(SpeechInputs(self, input_ids, *values).tokens())
        labels = text_labels is not None or audio_labels is not None
        use_cache = False if labels and not use_cache else use_cache
        wanted = self.decoder.wanted(
            past_key_values, use_cache, attention_mask, output_attentions, output_hidden_states
        )
        decoded = decode(self.lm, inputs_embeds, wanted)
        hidden = decoded.last_hidden_state
        logits = self.lm.text_linear(hidden)
        loss = None if text_labels is None else text_loss(logits, text_labels, loss_alignment)
        depth = MoshiDepthOutput()
        if audio_labels is not None:
            text = input_ids if text_labels is None else text_labels
            depth = self._depth(hidden, text, audio_labels, loss_alignment)
            loss = depth.loss if loss is None or depth.loss is None else loss + depth.loss
        output = MoshiConditionalGenerationOutputWithPast(
            loss, logits, hidden, wanted.cache, decoded.hidden_states, None, depth.loss, depth.logits
        )
        return output if self.wants_dict(return_dict) else output.to_tuple()

    def _depth(
        self, hidden: Tensor, text: Tensor | None, labels: Tensor, alignment: Alignment
    ) -> MoshiDepthOutput:
        """hidden: [B, T, dim], text: [B, T], labels: [B, K, T] -> loss [], logits [N, K, card]."""
        batch, steps = hidden.shape[:2]
        if labels.shape != (batch, self.num_codebooks, steps):
            accepted = f"[{batch}, {self.num_codebooks}, {steps}]"
            raise InputError(f"audio_labels of shape {list(labels.shape)}; accepted: {accepted}")
        labels = delayed(labels.to(self.device), self.config.audio_vocab_size or 0)
        if text is None:
            text = torch.full((batch, steps), IGNORED, device=self.device)
        if alignment == "model":
            hidden, text, labels = hidden[:, :-1], text[:, 1:], labels[:, :, 1:]
        labels = labels.transpose(1, 2).flatten(0, 1)  # [N, K]
        tokens = torch.cat([text.to(self.device).reshape(-1, 1), labels[:, :-1]], dim=1)
        output = self.depth_decoder(tokens, hidden.flatten(0, 1)[:, None], labels, return_dict=True)
        assert isinstance(output, MoshiDepthOutput)
        return output

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_audio_waveforms: bool = True,
        return_audio_codes: bool | None = None,
        concat_unconditional_inputs: bool = True,
        *,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> MoshiConditionalGenerationGenerateOutput | Tensor:
        """Goes on with a conversation; without inputs, begins one.

        The three streams of the history have the same number of frames. Only the caller's may have more: what
        is beyond the history is fed while the model speaks, silence after it. It then generates up to the end
        of the caller's audio, and else 20 tokens, unless `max_new_tokens` or `max_length` say otherwise.

        Args:
            input_ids: [B, T] text.
            user_input_values, moshi_input_values: [B, 1, samples], where codes are not given.
            user_audio_codes, moshi_audio_codes: [B, K, T].
            inputs_embeds: [B, T, hidden_size] of the whole history; the codes are needed beside it.
            return_audio_waveforms, return_audio_codes: what to return beside the text; neither: text alone.
            concat_unconditional_inputs: puts a step of initial tokens first.
            attention_mask: only ones: a conversation has no padding.
            generation_config: instead of the model's own settings.
            kwargs: `do_sample`, `temperature`, `top_k`, `top_p`, `num_return_sequences`, ... as
                `GenerationConfig` has them; with `depth_decoder_` before them, of the depth transformer.

        Raises:
            InputError: inputs that are missing, not synchronised or out of range; unknown arguments.
        """
        settings = (generation_config or self.generation_config).changed(kwargs)
        if attention_mask is not None and not bool(attention_mask.bool().all()):
            raise InputError("attention_mask with zeros; accepted: ones, a conversation has no padding")
        values = (user_input_values, user_audio_codes, moshi_input_values, moshi_audio_codes)
        inputs = SpeechInputs(self, input_ids, *values, inputs_embeds)
        output, codes = self._continue(inputs, concat_unconditional_inputs, settings)
        if return_audio_waveforms:
            output.audio_sequences = self.audio_encoder.audio_of(codes)
        output.audio_codes = codes if return_audio_codes else None
        with_audio = return_audio_waveforms or return_audio_codes
        return output if with_audio or settings.return_dict_in_generate else cast(Tensor, output.sequences)

    def _continue(
        self, inputs: SpeechInputs, begins: bool, settings: GenerationConfig
    ) -> tuple[MoshiConditionalGenerationGenerateOutput, Tensor]:
        """The text, [B, T], as the output has it, and the model's codes, [B, K, frames]."""
        history = inputs.history(begins)
        length = history.steps + history.begins
        beyond = history.user.shape[2] - history.steps
        steps = settings.new_tokens(length, beyond) if beyond > 0 else settings.new_tokens(length)
        spoken = generate_speech(self.lm, history, steps, settings, self.cuda_graphs)
        text = spoken.text
        if history.begins:
            text = nn.functional.pad(text, (1, 0), value=self.config.vocab_size)
        logits = tuple(spoken.logits) if settings.output_logits else None
        output = MoshiConditionalGenerationGenerateOutput(sequences=text, logits=logits)
        return output, spoken.codes[:, :, inputs.unconditional_frames :]

    def get_unconditional_inputs(self, num_samples: int = 1) -> MoshiUnconditionalInput:
        """Makes a step of initial tokens, which begins a conversation."""
        text = torch.full((num_samples, 1), self.config.vocab_size, device=self.device)
        codes = torch.full((num_samples, self.num_codebooks, 1), self.lm.card, device=self.device)
        return MoshiUnconditionalInput(text, codes, codes.clone(), torch.ones_like(text))

    def build_delay_pattern_mask(
        self, input_ids: Tensor, bos_token_id: int, pad_token_id: int, max_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Builds the mask as the module `delay_pattern` does, by default as long as the codes need."""
        length = max_length or self.generation_config.max_length or input_ids.shape[-1] + 1
        return delay_pattern.build_delay_pattern_mask(input_ids, bos_token_id, pad_token_id, length)

    @staticmethod
    def apply_delay_pattern_mask(input_ids: Tensor, decoder_pad_token_mask: Tensor) -> Tensor:
        """Applies the mask as the module `delay_pattern` does."""
        return delay_pattern.apply_delay_pattern_mask(input_ids, decoder_pad_token_mask)
