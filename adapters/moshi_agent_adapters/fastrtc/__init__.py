"""Moshi for FastRTC: one class gives a Gradio page, a websocket and a telephone. The extra is `fastrtc`."""

from moshi_agent_adapters.fastrtc.handler import MoshiHandler

__all__ = ["MoshiHandler"]
