"""Models that are told what was found elsewhere: KAME and MoshiRAG, from their own packages."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.common import randomise, seeded, write_json, write_tensors
from recipes.lm_configs import _MOSHI as MOSHI

PADDING = 3
ROW_DIM = 24
KAME = MOSHI | {"model_type": "moshi"}
MOSHIRAG = MOSHI | {
    "rag_token_id": 4,
    "demux_second_stream": False,
    "text_card_out": None,
    "conditioners": {
        "first_speaker": {
            "type": "lut",
            "lut": {
                "n_bins": 2,
                "dim": 16,
                "tokenizer": "noop",
                "possible_values": ["SPEAKER_MAIN", "SPEAKER_OTHER"],
            },
        },
        "reference_with_time": {
            "type": "multi_arc_encoder",
            "multi_arc_encoder": {
                "embedder_params": {"compress_rates": [-4]},
                "bridge_module": {"in_dim": 32, "out_dim": ROW_DIM, "hidden_dim": 20},
                "hf_repo": "kyutai/ARC4_Encoder_Llama",
                "finetune": False,
                "ref_dropout": 0.2,
                "frame_rate": 12.5,
                "learn_padding": True,
                "rag_time_sampling_params": {
                    "start_delay": 1.0,
                    "end_gap": 1.0,
                    "random_sampling_proba": 0.2,
                },
            },
        },
    },
    "fuser": {
        "cross_attention_pos_emb": False,
        "cross_attention_pos_emb_scale": 1,
        "sum": [],
        "streaming_sum": ["reference_with_time"],
        "prepend": ["first_speaker"],
        "cross": [],
    },
    "cross_attention": False,
    "model_id": {},
}
# Of the encoder, which their code builds in one size alone.
ENCODER = {
    "vocabulary": 60,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "dim_feedforward": 40,
    "dim": 32,
}
_TEXTS = (1, 2, 3, 4, 5, 7, 8, 13, 22)  # tokens of each
_STEPS = 60  # over three times the context


def stand_in_for_missing() -> None:
    """Puts plain attention in the place of xformers', which runs on a GPU alone, and no Transformers."""
    names = ("xformers", "xformers.ops", "xformers.ops.fmha", "xformers.ops.fmha.attn_bias", "transformers")
    modules = {name: ModuleType(name) for name in names}
    sys.modules.update(modules)
    modules["xformers.ops.fmha"].memory_efficient_attention = _attention
    for name in ("BlockDiagonalMask", "BlockDiagonalCausalMask"):
        setattr(modules["xformers.ops.fmha.attn_bias"], name, _OneBlock)
    for name in ("AutoTokenizer", "T5EncoderModel", "T5Tokenizer"):
        setattr(modules["transformers"], name, None)


class _OneBlock:
    """The mask of one text: none."""

    @staticmethod
    def from_seqlens(*args: Any, **kwargs: Any) -> _OneBlock:
        return _OneBlock()


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: object) -> Tensor:
    """[1, N, heads, D] each, as theirs has them."""
    out = F.scaled_dot_product_attention(*(one.transpose(1, 2) for one in (query, key, value)))
    return out.transpose(1, 2)


@torch.no_grad()
def write_kame(root: Path) -> None:
    """Forward, and a conversation in which two answers come, the second while the first is being read."""
    from kame.models.lm import LMGen, LMModel

    folder = root / "lm" / "kame"
    model = LMModel(**_of_model(KAME))
    randomise(model, seed=3)
    model.eval()
    write_tensors(folder / "model.safetensors", model.state_dict())
    write_json(folder / "config.json", KAME)

    generator = seeded(1)
    codes = torch.randint(24, (2, 1 + KAME["n_q"], 30), generator=generator)
    oracle = torch.where(torch.rand(2, 1, 30, generator=generator) < 0.5, PADDING, codes[:, :1])
    out = model(codes, oracle_tokens=oracle)
    read = torch.cat([torch.full((2, 1, 1), KAME["text_card"]), oracle[:, :, :-1]], dim=2)[:, 0]
    forward = {"codes": codes, "references": read, "text_logits": out.text_logits, "logits": out.logits}
    forward |= {"text_mask": out.text_mask, "mask": out.mask}
    _write(folder / "forward.safetensors", forward)

    user = torch.randint(24, (_STEPS, 1, KAME["n_q"] - KAME["dep_q"]), generator=generator)
    answers = {9: [7, 12, 5, 30, 31], 13: [8, 8, 40], 40: [11] * 12}
    logits: list[Tensor] = []
    gen = LMGen(model, use_sampling=False, support_out_of_sync=True)
    gen.on_text_logits_hook = lambda one: logits.append(one[:, 0, 0].clone())
    outs, references = [], []
    queue: list[int] = []
    with gen.streaming(1):
        for step, frame in enumerate(user):
            if step in answers:
                gen.update_oracle_tokens_streaming(answers[step], reset=True)
                queue = [KAME["text_card"], *answers[step]]
            references.append(queue.pop(0) if queue else PADDING)
            outs.append(gen.step(frame[:, :, None])[:, :, 0])
    generated = {"user": user, "references": torch.tensor(references), "out": torch.stack(outs)}
    _write(folder / "generate.safetensors", generated | {"text_logits": torch.stack(logits)})
    print(f"kame: {len(torch.stack(outs).unique())} different tokens")


@torch.no_grad()
def write_moshirag(root: Path) -> None:
    """A conversation of two rows: who speaks first differs, and what is found, and when, and one is reset.

    With a reset their code takes from every row the tokens that wait for their delay: the other row means
    nothing from there on.
    """
    from moshi.conditioners.base import ConditionAttributes, ConditionFuser, ConditionProvider
    from moshi.conditioners.text import LUTConditioner
    from moshi.models.lm import LMGen, LMModel

    folder = root / "lm" / "moshirag"
    speaker = dict(MOSHIRAG["conditioners"]["first_speaker"]["lut"])
    dim = MOSHIRAG["dim"]
    provider = ConditionProvider(
        {"first_speaker": LUTConditioner(output_dim=dim, device="cpu", **speaker)}, device="cpu"
    )
    fuser_config = MOSHIRAG["fuser"]
    fuser = ConditionFuser(
        {key: fuser_config[key] for key in ("sum", "prepend", "cross")} | {"streaming_sum": []}
    )
    config = _of_model(MOSHIRAG)
    for key in ("conditioners", "fuser", "cross_attention", "model_id"):
        config.pop(key)
    model = LMModel(condition_provider=provider, fuser=fuser, **config)
    randomise(model, seed=3)
    model.eval()
    projection = nn.Linear(ROW_DIM, dim, bias=False)
    randomise(projection, seed=4)
    prefix = "condition_provider.conditioners.reference_with_time."
    more = {
        prefix + "output_proj.weight": projection.weight,
        prefix + "learnt_padding": torch.randn(1, 1, dim, generator=seeded(5)),
    }
    write_tensors(folder / "model.safetensors", model.state_dict() | more)
    write_json(folder / "config.json", MOSHIRAG)

    who = ["SPEAKER_MAIN", "SPEAKER_OTHER"]
    attributes = [ConditionAttributes(text={"first_speaker": one}) for one in who]
    conditions = provider(provider.prepare(attributes))
    generator = seeded(1)
    user = torch.randint(24, (_STEPS, 2, MOSHIRAG["n_q"] - MOSHIRAG["dep_q"]), generator=generator)
    found = {5: (0, 6), 8: (0, 3), 20: (1, 10), 35: (0, 4), 36: (1, 2)}  # step: row and rows found
    rows = {step: torch.randn(count, ROW_DIM, generator=generator) for step, (_, count) in found.items()}
    reset_at = 45
    logits: list[Tensor] = []
    gen = LMGen(
        model,
        use_sampling=False,
        support_out_of_sync=True,
        condition_tensors=conditions,
        force_streaming_sum=True,
        on_text_logits_hook=lambda one: logits.append(one[:, 0, 0].clone()),
    )
    outs, everybody = [], torch.ones(2, dtype=torch.bool)
    with gen.streaming(2):
        for step, frame in enumerate(user):
            if step == reset_at:
                gen.reset_streaming(torch.tensor([False, True]))
                gen.set_exec_mask(everybody)
            if step in found:
                row = found[step][0]
                projected = projection(rows[step])
                gen.update_streaming_sum_tensors([projected if one == row else None for one in range(2)])
            gen.apply_pending_streaming_sum_condition(everybody)
            outs.append(gen.step(frame[:, :, None])[:, :, 0])
    tensors = {f"found.{step}.{found[step][0]}": one for step, one in rows.items()}
    tensors |= {"user": user, "out": torch.stack(outs), "reset_at": torch.tensor(reset_at)}
    _write(folder / "generate.safetensors", tensors | {"text_logits": torch.stack(logits)})
    print(f"moshirag: {len(torch.stack(outs).unique())} different tokens")


@torch.no_grad()
def write_encoder(root: Path) -> None:
    """Texts of several lengths through the encoder and its bridge."""
    from moshi.conditioners import arc_encoder as theirs

    folder = root / "reference_encoder"
    model = theirs.ArcEncoderTransformer.__new__(theirs.ArcEncoderTransformer)
    nn.Module.__init__(model)
    model._precomputed_freqs_cis = theirs.precompute_freqs_cis(ENCODER["head_dim"], 100, 500_000.0)
    model.n_layers, model.compress_rates = ENCODER["num_layers"], [-4]
    model.start_compressing, model.causal, model.n_mem_tokens = ENCODER["num_layers"] - 1, False, 0
    model.tok_embeddings = nn.Embedding(ENCODER["vocabulary"], ENCODER["dim"])
    model.pooling_module = theirs.PoolingModule()
    sizes = {"dim": ENCODER["dim"], "hidden_dim": ENCODER["dim_feedforward"], "n_heads": ENCODER["num_heads"]}
    sizes |= {"n_kv_heads": ENCODER["num_kv_heads"], "head_dim": ENCODER["head_dim"]}
    model.layers = nn.ModuleDict(
        {str(one): theirs.TransformerBlock(norm_eps=1e-5, **sizes) for one in range(ENCODER["num_layers"])}
    )
    bridge = theirs.EmbProjector(in_dim=ENCODER["dim"], out_dim=ROW_DIM, hidden_dim=20)
    both = nn.ModuleDict({"embedder": model, "bridge_module": bridge})
    randomise(both, seed=6)
    write_tensors(folder / "model.safetensors", both.state_dict())
    write_json(folder / "config.json", ENCODER | {"bridge_dim": 20, "row_dim": ROW_DIM})
    texts = {n: torch.randint(ENCODER["vocabulary"], (n,), generator=seeded(n)) for n in _TEXTS}
    rows = {n: bridge(model.forward_embedder(tokens, [n])[0]) for n, tokens in texts.items()}
    tensors = {f"tokens.{n}": one for n, one in texts.items()} | {f"rows.{n}": one for n, one in rows.items()}
    _write(folder / "rows.safetensors", tensors)
    print(f"reference_encoder: rows of {[len(one) for one in rows.values()]} for {list(_TEXTS)} tokens")


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Writes tensors, integers in few bytes."""
    small = {name: one.to(torch.int16) if one.dtype == torch.int64 else one for name, one in tensors.items()}
    write_tensors(path, small)


def _of_model(config: dict[str, Any]) -> dict[str, Any]:
    """Without what their loaders take out."""
    given = copy.deepcopy(config)
    for key in ("model_type", "demux_second_stream", "depformer_causal"):
        given.pop(key, None)
    return given
