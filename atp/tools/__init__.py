"""What an agent may call: tools that take one text and say one back. Whatever they are given, a text comes back."""

from atp.tools.calculator import ToolError, evaluate
from atp.tools.tool import TOOLS, Call, Outcome, Tool, run_calls, schema

__all__ = ["TOOLS", "Call", "Outcome", "Tool", "ToolError", "evaluate", "run_calls", "schema"]
