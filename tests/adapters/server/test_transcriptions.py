"""Speech written down over OpenAI's endpoints, by the clients that know them, unchanged.

The recogniser has random weights and knows one word: what is tested is the protocol.
"""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("openai", reason="the openai package is not installed")
pytest.importorskip("uvicorn", reason="needs the extra `server`: pip install moshi-agent[server]")
pytest.importorskip("aiortc", reason="needs the extra `server`: pip install moshi-agent[server]")

import openai

from moshi_agent import ConfigError, Engine
from moshi_agent.audio.files import read_audio
from moshi_agent.questions import sample_questions
from moshi_agent_adapters.server import ServerConfig, create_app
from tests.adapters.server.server_calls import Running, running, wait_for
from tests.adapters.server.server_clients import PATIENCE_S, paced, question
from tests.recogniser_model import write_sparing_checkpoint

RECORDING_S = 1.5
CLIENTS = Path(__file__).parent / "clients"


def _flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, 24_000, format="FLAC")
    return file.getvalue()


RECORDING = ("question.flac", _flac(read_audio(sample_questions()[0].path)[: round(RECORDING_S * 24_000)]))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = write_sparing_checkpoint(tmp_path_factory.mktemp("stt"))
    options = {"recogniser": True, "capacity": 2, "admit_by_time": False, "shared": False}
    with Engine.load(str(folder), device="cpu", **options) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(engine, ServerConfig(model_name="stt", longest_upload=2 << 20)) as server:
        yield server


@pytest.fixture
def client(server: Running) -> Iterator[Any]:
    with openai.OpenAI(api_key="unused", base_url=f"{server.http}/v1", max_retries=0) as client:
        yield client


def test_a_recording_in_every_form(client: Any) -> None:
    create = client.audio.transcriptions.create
    transcript = create(model="stt", file=RECORDING)
    words = transcript.text.split()
    assert words and set(words) == {"the"}
    assert transcript.usage.seconds == RECORDING_S
    assert create(model="whisper-1", file=RECORDING, response_format="text").strip() == transcript.text
    verbose = create(
        model="stt",
        file=RECORDING,
        response_format="verbose_json",
        language="en",
        timestamp_granularities=["word", "segment"],
    )
    assert (verbose.text, verbose.language) == (transcript.text, "en")
    assert verbose.duration == RECORDING_S
    assert [word.word for word in verbose.words] == words
    starts = [word.start for word in verbose.words]
    assert starts == sorted(starts)
    assert " ".join(segment.text for segment in verbose.segments) == transcript.text
    assert verbose.segments[0].start == starts[0]
    vtt = create(model="stt", file=RECORDING, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:0") and vtt.split().count("the") == len(words)
    assert create(model="stt", file=RECORDING, response_format="srt").startswith("1\n00:00:0")


def test_pieces_come_while_a_recording_is_heard(client: Any) -> None:
    events = list(client.audio.transcriptions.create(model="stt", file=RECORDING, stream=True))
    *deltas, done = events
    assert done.type == "transcript.text.done"
    assert len(deltas) > 1 and {event.type for event in deltas} == {"transcript.text.delta"}
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text == client.audio.transcriptions.create(model="stt", file=RECORDING).text


def test_more_recordings_than_rows(server: Running, client: Any) -> None:
    """Two fit at once; who finds no row is told so, with a status at which clients try again."""
    patient = client.with_options(max_retries=10)

    def write_down(_: int) -> str:
        return patient.audio.transcriptions.create(model="stt", file=RECORDING).text

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(write_down, range(4)))
    assert len(set(texts)) == 1 and texts[0]
    engine = server.server.engine
    with engine.session(), engine.session(), pytest.raises(openai.InternalServerError) as error:
        client.audio.transcriptions.create(model="stt", file=RECORDING)
    assert error.value.status_code == 503 and "no row is free" in error.value.message
    wait_for(lambda: not server.live)


@pytest.mark.parametrize(
    ("wishes", "status", "said"),
    [
        ({"model": "tiny"}, 404, "there is no model 'tiny'; accepted: 'stt'"),
        ({"file": ("notes.wav", b"no sound")}, 400, "notes.wav cannot be read as audio"),
        ({"file": ("cut.flac", RECORDING[1][:9000])}, 400, "cut.flac"),
        ({"file": ("long.wav", bytes(3 << 20))}, 413, "accepted: a shorter recording"),
        ({"response_format": "diarized_json"}, 400, "accepted: json, text, srt, verbose_json, vtt"),
        ({"response_format": "srt", "stream": True}, 400, "accepted: json"),
        ({"timestamp_granularities": ["letter"]}, 400, "accepted: word, segment"),
    ],
)
def test_what_cannot_be_written_down_is_refused(
    server: Running, client: Any, wishes: dict[str, Any], status: int, said: str
) -> None:
    wanted = {"model": "stt", "file": RECORDING} | wishes
    with pytest.raises(openai.APIStatusError) as error:
        client.audio.transcriptions.create(**wanted)
    assert error.value.status_code == status
    assert said in error.value.message and "/tmp" not in error.value.message
    assert not server.live and not server.server.addresses.live


def test_another_body_than_a_form_is_refused(client: Any) -> None:
    with pytest.raises(openai.APIStatusError, match="accepted: multipart/form-data") as error:
        client.post("/audio/transcriptions", body={"model": "stt"}, cast_to=object)
    assert error.value.status_code == 415


def test_a_client_that_leaves_frees_its_row(server: Running) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(api_key="unused", base_url=f"{server.http}/v1") as client:
            file = ("silence.flac", _flac(np.zeros(24_000 * 600, np.float32)))
            asking = asyncio.create_task(client.audio.transcriptions.create(model="stt", file=file))
            await asyncio.to_thread(wait_for, lambda: server.live == 1)
            asking.cancel()

    asyncio.run(main())
    wait_for(lambda: not server.live, 5)
    assert not server.server.addresses.live


@pytest.mark.real_time
def test_openais_package_over_the_realtime_protocol(server: Running) -> None:
    async def listen() -> list[Any]:
        events = list[Any]()
        client = openai.AsyncOpenAI(api_key="unused", base_url=f"{server.http}/v1")
        asked = {"extra_query": {"intent": "transcription"}}
        async with client, client.realtime.connect(**asked) as realtime, asyncio.timeout(PATIENCE_S):
            audio = {"input": {"transcription": {"model": "gpt-4o-transcribe", "language": "en"}}}
            await realtime.session.update(session={"type": "transcription", "audio": audio})

            async def speak() -> None:
                async for chunk in paced(question("Thank you very much.")):
                    pcm = (chunk * 32767).astype("<i2").tobytes()
                    await realtime.input_audio_buffer.append(audio=base64.b64encode(pcm).decode())

            task = asyncio.create_task(speak())
            async for event in realtime:
                events.append(event)
                if event.type == "conversation.item.done":
                    task.cancel()
                    return events
        raise AssertionError([event.type for event in events])

    events = asyncio.run(listen())
    kinds = [event.type for event in events]
    assert kinds[:2] == ["session.created", "session.updated"]
    assert kinds.count("input_audio_buffer.speech_started") == 1
    assert events[1].session.type == "transcription"
    assert events[1].session.audio.input.transcription.model == "stt"
    written = [e for e in events if e.type == "conversation.item.input_audio_transcription.delta"]
    (whole,) = [e for e in events if e.type == "conversation.item.input_audio_transcription.completed"]
    assert "".join(event.delta for event in written) == whole.transcript
    assert set(whole.transcript.split()) == {"the"}
    assert kinds.index("input_audio_buffer.committed") < kinds.index(whole.type)
    assert {e.item_id for e in events if hasattr(e, "item_id")} == {whole.item_id}
    wait_for(lambda: not server.live)


@pytest.mark.slow
@pytest.mark.real_time
@pytest.mark.parametrize("name", ["livekit_stt_client", "pipecat_stt_client"])
def test_clients_that_run_in_a_process_of_their_own(server: Running, name: str) -> None:
    """They print what was said. Exit code 5 says that the client's package is not installed."""
    result = subprocess.run(
        [sys.executable, str(CLIENTS / f"{name}.py"), server.http, "Thank you very much."],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S + 20,
        check=False,
    )
    if result.returncode == 5:
        pytest.skip(result.stderr.strip())
    assert result.returncode == 0, result.stderr + result.stdout
    words = result.stdout.split()
    assert words and set(words) == {"the"}
    wait_for(lambda: not server.live)


def test_paths_of_a_model_that_speaks_are_not_there(server: Running) -> None:
    assert [server.get(path)[0] for path in ("/", "/v1/live/sessions", "/api/chat")] == [404] * 3
    assert server.get("/v1/audio/transcriptions")[0] == 405
    assert server.get_json("/v1/models")["data"][0]["id"] == "stt"


@pytest.mark.parametrize("settings", [{"greet": True}, {"delegate": "turns"}, {"role": "a cook"}])
def test_settings_of_a_model_that_speaks_are_refused(engine: Engine, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create_app(engine, ServerConfig(**settings))
