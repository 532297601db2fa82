"""Speech recognition in Pipecat: two pipelines on one engine that is a recogniser of one word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

pytest.importorskip("pipecat", reason="needs the extra `pipecat`: pip install moshi-agent[pipecat]")

from pipecat.frames.frames import (
    ErrorFrame,
    InterimTranscriptionFrame,
    MetricsFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    STTMetadataFrame,
    TranscriptionFrame,
)
from pipecat.metrics.metrics import STTUsageMetricsData
from pipecat.pipeline.worker import PipelineParams

from moshi_agent import ConfigError, Engine
from moshi_agent_adapters.pipecat import MoshiSTTService
from tests.adapters.pipecat.pipecat_calls import Caller, Notes, call_pipeline
from tests.recogniser_model import write_sparing_checkpoint

RATE_HZ = 16_000
PARAMS = PipelineParams(
    audio_in_sample_rate=RATE_HZ,
    audio_out_sample_rate=RATE_HZ,
    enable_metrics=True,
    enable_usage_metrics=True,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"recogniser": True, "capacity": 2, "admit_by_time": False, "shared": False}
    with Engine.load(str(folder), device="cpu", **options) as engine:
        yield engine


async def _ask(caller: Caller) -> None:
    await caller.ask("Thank you very much.")
    await caller.hear(TranscriptionFrame)
    await caller.be_silent(0.2)


@pytest.mark.real_time
def test_what_users_say_is_written_down_interim_and_final(engine: Engine) -> None:
    async def main() -> list[Notes]:
        calls = [call_pipeline([MoshiSTTService(engine=engine)], _ask, PARAMS) for _ in range(2)]
        return await asyncio.gather(*calls)

    for notes in asyncio.run(main()):
        final = notes.of(TranscriptionFrame)[0]
        words = final.text.split()
        assert final.finalized and set(words) == {"the"}
        interim = [frame.text for frame in notes.of(InterimTranscriptionFrame)][: len(words)]
        assert interim == [" ".join(["the"] * count) for count in range(1, len(words) + 1)]
        promised = {frame.ttfs_p99_latency for frame in notes.of(STTMetadataFrame)}
        assert promised == {engine.model.text_delay_s + 0.5}
        usage = [data for frame in notes.of(MetricsFrame) for data in frame.data]
        assert any(isinstance(data, STTUsageMetricsData) for data in usage)
        assert not notes.of(ErrorFrame)
        ends = notes.of(
            TranscriptionFrame, ProposedUserStartedSpeakingFrame, ProposedUserStoppedSpeakingFrame
        )
        kinds = [type(frame) for frame in ends[: ends.index(final) + 2]]
        assert kinds[0] is ProposedUserStartedSpeakingFrame
        assert kinds[-2:] == [TranscriptionFrame, ProposedUserStoppedSpeakingFrame]


def test_a_full_engine_is_reported(engine: Engine) -> None:
    async def script(caller: Caller) -> None:
        await caller.be_silent(0.3)

    with engine.session(), engine.session():
        notes = asyncio.run(call_pipeline([MoshiSTTService(engine=engine)], script, PARAMS))
    [error] = notes.of(ErrorFrame)
    assert "no row is free" in error.error


def test_an_engine_that_speaks_is_refused(four_rows: Engine) -> None:
    with pytest.raises(ConfigError, match="recogniser=True"):
        MoshiSTTService(engine=four_rows)
