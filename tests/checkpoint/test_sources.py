"""Where a checkpoint is looked for, and a hub that answers in every way it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download, utils

from moshi_agent import CheckpointError
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.checkpoint.sources import Folder, Repository, get, open_source, resolve
from tests.checkpoint.hub_server import COMMIT, HubServer


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository, `someone/model`, and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # not in 0.30
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with HubServer({"someone/model": folder}) as server:
        # Both are set when the library is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # releases before 1.0 look into the second
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        _forget_connections()
        yield server
        _forget_connections()
        server.shutdown()
        thread.join()


def _go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _forget_connections()


def _forget_connections() -> None:
    """Releases before 1.0 ask whether they are offline when they open one."""
    getattr(utils, "reset_sessions", lambda: None)()


def _reason(repository: Repository, file: str = "config.json") -> str:
    with pytest.raises(CheckpointError) as error:
        repository.find(file)
    return str(error.value)


def test_the_name_of_a_source_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_source("tiny"), Folder)
    assert open_source("tiny").name == "tiny"
    assert open_source("tiny") != open_source("./tiny")
    assert open_source("./tiny") == Folder(Path("tiny"), "tiny")
    assert isinstance(open_source("owner/model"), Folder), "an existing folder comes first"
    assert open_source("hf://owner/model") == Repository("owner/model", None, None)
    assert open_source("owner/other", "v1", "secret") == Repository("owner/other", "v1", "secret")
    assert open_source(tmp_path) == Folder(tmp_path, str(tmp_path))


@pytest.mark.parametrize("source", ["./none", "/none/at/all", "../none", "~/none/such"])
def test_what_is_written_like_a_path_is_never_asked_of_the_hub(source: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_source(source)


@pytest.mark.parametrize("source", ["none", "a/b/c", "", "owner/", "hf://owner"])
def test_what_is_neither_folder_nor_repository_is_an_error_that_says_what_is(source: str) -> None:
    with pytest.raises(CheckpointError, match="accepted: tiny, a folder, owner/name"):
        open_source(source)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="a file, and the folder of a checkpoint is needed"):
        open_source(folder / "config.json")


def test_a_checkpoint_is_fetched_from_the_hub_and_is_the_same(hub: HubServer, saved: Path) -> None:
    fetched, local = load_checkpoint("someone/model"), load_checkpoint(saved)
    assert fetched.name == "someone/model"
    assert fetched.config == local.config
    assert fetched.tokenizer is not None
    downloads = [line.rsplit("/", 1)[1] for line in hub.asked if line.startswith("GET /someone/")]
    assert sorted(downloads) == sorted(path.name for path in saved.iterdir())


def test_offline_what_was_fetched_before_is_found(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    load_checkpoint("someone/model")
    _go_offline(monkeypatch)
    asked = len(hub.asked)
    assert load_checkpoint("someone/model").lm is not None
    assert len(hub.asked) == asked


def test_offline_a_file_that_the_hub_does_not_have_is_known_to_be_missing(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository("someone/model", None, None)
    assert repository.find("other.json") is None
    _go_offline(monkeypatch)
    assert repository.find("other.json") is None


def test_offline_a_file_that_was_never_asked_for_is_an_error(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go_offline(monkeypatch)
    reason = _reason(Repository("someone/model", None, None))
    assert reason.startswith("someone/model: cannot fetch config.json: not in the cache")


def test_a_revision_is_fetched_and_a_wrong_one_is_an_error(hub: HubServer) -> None:
    assert get(Repository("someone/model", "tagged", None), "config.json").parent.name == COMMIT
    reason = _reason(Repository("someone/model", "none", None))
    assert reason == "someone/model at none: cannot fetch config.json: no such revision"


def test_a_repository_that_is_not_there_is_an_error(hub: HubServer) -> None:
    assert "someone/other: cannot fetch config.json: no such repository" in _reason(
        Repository("someone/other", None, None)
    )


def test_a_gated_repository_needs_a_token(hub: HubServer) -> None:
    hub.gated.add("someone/model")
    assert "accept the terms" in _reason(Repository("someone/model", None, None))
    assert Repository("someone/model", None, "good").find("config.json") is not None


def test_a_missing_file_is_an_error_that_names_it(hub: HubServer) -> None:
    with pytest.raises(CheckpointError, match=r"someone/model: there is no file weights\.safetensors in it"):
        get(Repository("someone/model", None, None), "weights.safetensors")


def test_a_download_that_stops_is_an_error_and_leaves_no_file(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.cut_short.add("model.safetensors")
    reason = _reason(Repository("someone/model", None, None), "model.safetensors")
    assert reason.startswith("someone/model: cannot fetch model.safetensors: ")
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))


def test_a_configuration_may_name_files_elsewhere(hub: HubServer, folder: Path) -> None:
    here = Folder(folder, "here")
    assert resolve("config.json", here) == folder / "config.json"
    assert resolve(f"file://{folder}/config.json", here) == folder / "config.json"
    fetched = resolve("hf://someone/model/config.json", here)
    assert fetched != folder / "config.json"
    assert fetched.read_bytes() == (folder / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="hf://owner/name/file"):
        resolve("hf://someone/model", here)
    with pytest.raises(CheckpointError, match=r"/none\.safetensors: no such file"):
        resolve("file:///none.safetensors", here)
