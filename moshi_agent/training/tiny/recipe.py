"""The built-in model's recipe: speech, tokenizer, encoder, decoder, encoded calls, language model, export.

Each stage leaves a folder or a file and is passed over where that is whole; one that was stopped goes on
where it was. All sizes and seeds are in `Recipe`. A run from a trained model (`onwards`) keeps
its codec and trains its language model on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import torch

from moshi_agent.checkpoint import load_checkpoint, save_kyutai
from moshi_agent.config import (
    DepthConfig,
    MimiConfig,
    MoshiConfig,
    QuantizerConfig,
    SEANetConfig,
    TransformerConfig,
)
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.training.tiny import tokenizer
from moshi_agent.training.tiny.conversations import ConversationMix, ConversationSampler
from moshi_agent.training.tiny.corpus import CallSpeechPlan, Corpus, CorpusPlan, build_corpus
from moshi_agent.training.tiny.crops import CropMix, CropSampler
from moshi_agent.training.tiny.decoder import DecoderTrainer, DecoderTraining
from moshi_agent.training.tiny.encoder import EncoderTrainer, EncoderTraining
from moshi_agent.training.tiny.encoding import CallEncoder
from moshi_agent.training.tiny.freeze import frozen, keep, load_codec, load_weights, save_weights
from moshi_agent.training.tiny.lm import LMTrainer, LMTraining, new_lm
from moshi_agent.training.tiny.lm_data import LMData, LMDataPlan, build_lm_data
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.stage import run_training


def tiny_codec() -> MimiConfig:
    """6.6 million weights; the short context keeps the codes of an answer apart from what was before it."""
    return MimiConfig(
        seanet=SEANetConfig(dimension=256, n_filters=20),
        transformer=TransformerConfig(
            dim=256,
            num_heads=4,
            num_layers=2,
            dim_feedforward=1024,
            layer_scale=0.1,
            context=16,
            positional_embedding="rope",
        ),
        quantizer=QuantizerConfig(dimension=64, n_q=8, bins=1024, input_dimension=256, output_dimension=256),
    )


def tiny_lm() -> MoshiConfig:
    """12.5 million weights. Both sides have 8 codebooks, the acoustic ones a frame late."""
    shared = {"norm": "rms_norm_f32", "gating": "silu"}
    temporal = TransformerConfig(
        dim=256,
        num_heads=4,
        num_layers=4,
        dim_feedforward=1024,
        positional_embedding="rope",
        context=160,
        **shared,  # pyright: ignore[reportArgumentType]
    )
    depth = TransformerConfig(
        dim=128,
        num_heads=4,
        num_layers=2,
        dim_feedforward=256,
        positional_embedding="none",
        weights_per_step=8,
        **shared,  # pyright: ignore[reportArgumentType]
    )
    return MoshiConfig(
        temporal=temporal,
        depth=DepthConfig(transformer=depth, multi_linear=True),
        delays=(0, *(0, *[1] * 7), *(0, *[1] * 7)),
        n_q=16,
        dep_q=8,
        card=1024,
        text_card=tokenizer.VOCABULARY,
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what the model becomes."""

    corpus: CorpusPlan = field(default_factory=CorpusPlan)
    call_speech: CallSpeechPlan = field(default_factory=CallSpeechPlan)
    codec_model: MimiConfig = field(default_factory=tiny_codec)
    encoder: EncoderTraining = field(default_factory=EncoderTraining)
    encoder_mix: CropMix = field(default_factory=lambda: CropMix(answer_voice=0.6, other_voices=0.34))
    decoder: DecoderTraining = field(default_factory=DecoderTraining)
    decoder_mix: CropMix = field(
        default_factory=lambda: CropMix(
            answer_voice=0.86, other_voices=0.08, answer_share=0.2, exact_share=0.8
        )
    )
    conversations: ConversationMix = field(default_factory=ConversationMix)
    calls: LMDataPlan = field(default_factory=LMDataPlan)
    lm_model: MoshiConfig = field(default_factory=tiny_lm)
    lm: LMTraining = field(default_factory=LMTraining)
    kept_share: float = 0.0  # of the weights that a run goes on from, in what it leaves


def onwards(run: int = 1) -> Recipe:
    """For a run from a model that `Recipe()` made: speech and calls that it has not heard yet.

    The codec stays, so the corpus holds what calls are made of and nothing that only a codec reads. In a
    third of the calls the bot is told all that it says: it takes the most sentences to learn how text sounds.
    A fifth of the weights that it goes on from is kept: what a run has learnt by heart counts for less, and
    calls that it has not heard lose nothing (as in WiSE-FT, arXiv:2109.01903).

    Args:
        run: counts such runs from 1; each hears other voices say other things.
    """
    recipe = Recipe()
    return replace(
        recipe,
        corpus=CorpusPlan(
            grammar_sentences=0,
            world_sentences=0,
            rows_of_words=0,
            renderings_per_question=0,
            recordings=0,
            unknown=1600,
            seed=20 + 20 * run,
        ),
        call_speech=replace(
            recipe.call_speech,
            said=12_000,
            found=30,
            renderings_per_question=80,
            high_renderings=40,
            high_unknown=500,
            seed=120 + 20 * run,
        ),
        conversations=replace(recipe.conversations, monologue_share=0.05),
        calls=replace(recipe.calls, shards=40, told_shards=34, seed=28 + 20 * run),
        lm=replace(recipe.lm, seed=6 + 10 * run, learning_rate=1.4e-3, steps=2800),
        kept_share=0.2,
    )


@dataclass(frozen=True)
class Places:
    """Where the stages leave what they make."""

    folder: Path
    export: Path

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def call_speech(self) -> Path:
        """What the calls are made of beside the corpus."""
        return self.folder / "speech"

    @property
    def tokenizer(self) -> Path:
        """The text tokenizer."""
        return self.folder / tokenizer.FILE_NAME

    @property
    def encoder(self) -> Path:
        """The codec once its encoder and codebooks are final."""
        return self.folder / "encoder.pt"

    @property
    def decoder(self) -> Path:
        """The whole codec."""
        return self.folder / "codec.pt"

    @property
    def calls(self) -> Path:
        return self.folder / "calls"

    @property
    def start(self) -> Path:
        """The language model that a run goes on from, if it does."""
        return self.folder / "start.pt"

    @property
    def lm(self) -> Path:
        return self.folder / "lm.pt"


def start_from(model: str, recipe: Recipe, places: Places) -> None:
    """Takes codec, tokenizer and language model of a checkpoint as what the stages go on from, unless they
    are taken.

    Raises:
        ConfigError: another architecture than the recipe's.
        CheckpointError: as for `load_checkpoint`.
    """
    if places.start.exists():
        return
    checkpoint = load_checkpoint(model)
    if checkpoint.lm is None or (checkpoint.mimi.config, checkpoint.lm.config) != (
        recipe.codec_model,
        recipe.lm_model,
    ):
        raise ConfigError(f"{model} is not built as this recipe has it; accepted: what it has made, or tiny")
    if checkpoint.tokenizer is None:
        raise ConfigError(f"{model} has no tokenizer; accepted: what this recipe has made, or tiny")
    places.folder.mkdir(parents=True, exist_ok=True)
    # The tokens mean to the model what they meant, also where the phrases have other words since.
    places.tokenizer.write_bytes(checkpoint.tokenizer.serialized_model_proto())
    save_weights(checkpoint.mimi, places.encoder)
    save_weights(checkpoint.mimi, places.decoder)
    if checkpoint.lm.oracle_emb is None:  # a package may leave out a table that is of no use yet
        checkpoint.lm.add_references(ahead=True)
    save_weights(checkpoint.lm, places.start)


def make_corpus(recipe: Recipe, places: Places) -> None:
    """Synthesises all speech."""
    phrases = load_phrases()
    build_corpus(places.corpus, recipe.corpus.items(phrases))
    build_corpus(places.call_speech, recipe.call_speech.items(phrases))


def make_tokenizer(recipe: Recipe, places: Places) -> None:
    """Trains the text tokenizer, of which every piece of text in the calls is made."""
    tokenizer.train_tokenizer(places.tokenizer)


def make_encoder(recipe: Recipe, places: Places) -> None:
    """Trains encoder and codebooks."""
    sampler = CropSampler.open(places.corpus, mix=recipe.encoder_mix)
    trainer = EncoderTrainer(recipe.codec_model, recipe.encoder, sampler.sample_crops)
    run_training(trainer, places.folder)
    save_weights(frozen(trainer.average), places.encoder)


def make_decoder(recipe: Recipe, places: Places) -> None:
    """Trains the decoder; the codes stay what they are."""
    sampler = CropSampler.open(places.corpus, mix=recipe.decoder_mix, seed=1)
    codec = load_codec(places.encoder, recipe.codec_model)
    trainer = DecoderTrainer(codec, recipe.decoder, sampler.sample_crops)
    run_training(trainer, places.folder)
    save_weights(frozen(trainer.average), places.decoder)


def make_calls(recipe: Recipe, places: Places) -> None:
    """Makes up calls and encodes them."""
    codec = load_codec(places.encoder, recipe.codec_model)
    codec.pack()
    corpus = Corpus.open(places.corpus, places.call_speech)
    spoken = tokenizer.load_tokenizer(places.tokenizer)
    sampler = ConversationSampler.make(corpus, load_phrases(), spoken, mix=recipe.conversations)
    build_lm_data(places.calls, sampler, CallEncoder(codec), recipe.calls)


def make_lm(recipe: Recipe, places: Places) -> None:
    """Trains the language model, from the one that the run goes on from if there is one."""
    data = LMData.open(places.calls)
    if places.start.exists():
        model = LMModel(recipe.lm_model)
        model.add_references(ahead=True)
        load_weights(model, places.start)
    else:
        codec = load_codec(places.encoder, recipe.codec_model)
        model = new_lm(recipe.lm_model, data, codec, recipe.lm.seed)
    trainer = LMTrainer(model, recipe.lm, data)
    run_training(trainer, places.folder)
    if places.start.exists():
        keep(trainer.average, places.start, recipe.kept_share)
    save_weights(trainer.average, places.lm)


def export(recipe: Recipe, places: Places) -> None:
    """Writes the model as a folder in Kyutai's format."""
    codec = load_codec(places.decoder, recipe.codec_model)
    lm = LMModel(recipe.lm_model)
    lm.add_references(ahead=True)
    load_weights(lm, places.lm)
    save_kyutai(places.export, codec, lm, places.tokenizer, lm_gen_config=ADVISED_SAMPLING)


# Answers are known word for word: what is unlikely is an error.
ADVISED_SAMPLING = {"temp": 0.2, "temp_text": 0.2, "top_k": 20, "top_k_text": 5}
PATH = click.Path(path_type=Path)
Stage = Callable[[Recipe, Places], None]
STAGES: dict[str, tuple[Stage, Callable[[Places], Path | None]]] = {
    "corpus": (make_corpus, lambda places: None),
    "tokenizer": (make_tokenizer, lambda places: places.tokenizer),
    "encoder": (make_encoder, lambda places: places.encoder),
    "decoder": (make_decoder, lambda places: places.decoder),
    "calls": (make_calls, lambda places: None),
    "lm": (make_lm, lambda places: places.lm),
    "export": (export, lambda places: None),
}


def run_recipe(recipe: Recipe, places: Places, stages: tuple[str, ...] = tuple(STAGES)) -> None:
    """Runs the stages that are not done yet, in the recipe's order."""
    places.folder.mkdir(parents=True, exist_ok=True)
    for name, (stage, result) in STAGES.items():
        path = result(places)
        if name in stages and not (path is not None and path.exists()):
            stage(recipe, places)


@click.command("tiny")
@click.option("--folder", type=PATH, default=Path("runs/tiny"), help="Where everything is kept.")
@click.option("--out", type=PATH, help="Where the model goes [FOLDER/export].")
@click.option("--from", "start", help="A folder or `tiny`: its codec is kept, its language model trained on.")
@click.option("--run", default=1, show_default=True, help="With --from: other speech and calls in each.")
@click.option("--stage", "stages", multiple=True, type=click.Choice([*STAGES]), help="Only this; repeatable.")
@click.option("--threads", default=1, show_default=True, help="Of PyTorch; no more than idle cores.")
def command(
    folder: Path, out: Path | None, start: str | None, run: int, stages: tuple[str, ...], threads: int
) -> None:
    """Train the built-in model from synthetic speech."""
    torch.set_num_threads(threads)
    places = Places(folder, out or folder / "export")
    recipe = Recipe() if start is None else onwards(run)
    if start is not None:
        start_from(start, recipe, places)
    run_recipe(recipe, places, stages or tuple(STAGES))


def main(arguments: list[str]) -> None:
    """`moshi-agent train tiny`."""
    command.main(args=arguments, prog_name="moshi-agent train tiny", standalone_mode=False)
