"""Tools that an agent may call. A tool takes one text and returns one text, whatever its input."""

from atp.tools.calculator import ToolError, evaluate
from atp.tools.files import Files
from atp.tools.tool import TOOLS, Call, Outcome, Tool, run_calls, schema

__all__ = ["TOOLS", "Call", "Files", "Outcome", "Tool", "ToolError", "evaluate", "run_calls", "schema"]
