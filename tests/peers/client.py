"""The official Python client at the model door, driven by a test. `client.py URL KEY VERSION UPSTREAM` prints one JSON object.

VERSION is the revision to speak. UPSTREAM is the name of a recorder (see tests/e2e/harness/recorder.rs).
"""

import json
import sys
import warnings

import anyio
import httpx2
import mcp_types as types
from mcp.client import session as session_module
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

MODERN = "2026-07-28"
warnings.simplefilter("ignore")


async def main(url: str, key: str, version: str, upstream: str) -> dict:
    report: dict = {}
    headers = {"authorization": f"Bearer {key}"}
    if version != MODERN:
        # The client asks for the newest revision of the era; an older client would ask for its own.
        session_module.LATEST_HANDSHAKE_VERSION = version
    mode = version if version == MODERN else "legacy"
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        async with Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client:
            report["version"] = client.protocol_version
            if mode == "legacy":
                await client.session.send_ping()
                report["ping"] = True
            report["server"] = client.session.server_info.name if client.session.server_info else None
            listed = await client.list_tools()
            report["tools"] = sorted(tool.name for tool in listed.tools)

            echoed = await client.call_tool(f"{upstream}__echo", {"text": "grüße", "tag": "python"})
            report["echo"] = echoed.model_dump(mode="json", by_alias=True, exclude_none=True)

            failed = await client.call_tool(f"{upstream}__fail", {})
            report["fail"] = failed.model_dump(mode="json", by_alias=True, exclude_none=True)

            steps: list = []

            async def heard(progress: float, total: float | None, message: str | None) -> None:
                steps.append([progress, total, message])

            walked = await client.call_tool(f"{upstream}__progress", {"steps": 3}, progress_callback=heard)
            report["progress"] = {"steps": steps, "text": walked.content[0].text}

            # Given up by the client half-way; it says so in the way of its era.
            with anyio.move_on_after(0.7) as scope:
                await client.call_tool(f"{upstream}__slow", {"ms": 20_000, "tag": "given-up"})
            report["cancelled"] = scope.cancelled_caught

            try:
                await client.call_tool(f"{upstream}__nothing", {})
            except MCPError as error:
                report["unknown"] = {"code": error.code, "message": error.message}

            # Whatever still comes for the cancelled call: this client breaks when an answer meets it while it closes.
            await anyio.sleep(0.5)
    return report


if __name__ == "__main__":
    print(json.dumps(anyio.run(main, *sys.argv[1:5])))
