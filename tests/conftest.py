"""Settings for all tests, and the rule that the checks skip nothing unseen."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# Tensors are small here, and every core has a process of pytest: more threads would be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The time of a single example says nothing on a machine that runs other things.
settings.register_profile("moshi-agent", deadline=None, print_blob=True)
settings.load_profile("moshi-agent")

# How the reasons begin for which CI may skip a test: what its machine is, or what `dev` cannot hold.
MAY_BE_SKIPPED = (
    "needs a CUDA device",
    "there is a CUDA device",
    "the superuser may write anywhere",
    "Triton's interpreter",  # those tests run in a step of their own
    "needs Node.js",  # Debian's may be too old
    "needs FastRTC",  # which is bound to an older Gradio, Starlette and websockets
    "Debian has Pico in non-free",
    "Kyutai's package",  # `moshi` is bound to an older torch, numpy and huggingface_hub
)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test that CI would skip for any other reason."""
    report = yield
    _fail_if_unseen(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fails a file that CI would skip for any other reason."""
    report = yield
    _fail_if_unseen(report)
    return report


def _fail_if_unseen(report: pytest.TestReport | pytest.CollectReport) -> None:
    under_ci = os.environ.get("CI", "").lower() in ("1", "true")
    if not under_ci or not report.skipped or hasattr(report, "wasxfail"):
        return
    assert isinstance(report.longrepr, tuple)
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not reason.startswith(MAY_BE_SKIPPED):
        report.outcome = "failed"
        report.longrepr = f"CI may not skip this: {reason}"
