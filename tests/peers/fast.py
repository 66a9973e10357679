"""A FastMCP server over Streamable HTTP, in both eras of the protocol: a real peer that is not ours. `fast.py PORT`"""

import sys
from typing import Annotated

import anyio
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from fastmcp.utilities.types import Image
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

server = FastMCP("fast", version="1.2.3")


class Weather(BaseModel):
    city: str
    celsius: float
    days: list[int]


@server.tool(annotations=ToolAnnotations(title="Add", readOnlyHint=True), meta={"fast/kind": "sum"})
def add(a: int, b: Annotated[int, Field(description="The other one.")] = 1) -> int:
    """Adds two numbers."""
    return a + b


@server.tool
def weather(city: str) -> Weather:
    """Invents the weather."""
    return Weather(city=city, celsius=21.5, days=[1, 2, 3])


@server.tool
def picture() -> Image:
    """Answers an image."""
    return Image(data=b"\x89PNG\r\n\x1a\n", format="png")


@server.tool
def fail(why: str) -> str:
    """Fails for the given reason."""
    raise ToolError(why)


@server.tool
async def walk(steps: int, ctx: Context) -> str:
    """Goes step by step and tells so."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await anyio.sleep(0.02)
    return "arrived"


@server.tool
async def sleep(seconds: float) -> str:
    """Sleeps."""
    await anyio.sleep(seconds)
    return "slept"


if __name__ == "__main__":
    server.run("http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False, log_level="warning")
