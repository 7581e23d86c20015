"""How a 1.5B model is made an agent: a short prompt, a grammar, and plain words for its history.

The model never emits native tool calls. A grammar lets it say exactly one of two things: one fenced bash
block, which becomes a call of the `bash` tool, or `DONE:` and a sentence, which ends the turn.
"""

import re
from collections.abc import Mapping, Sequence

from corral.brain.ports import ModelRequest
from corral.kernel.limits import LOCAL_RESULT_CHARS_MAX, LOCAL_SYSTEM_CHARS_MAX
from corral.session.content import Block, Json

Chat = list[dict[str, str]]

FENCE, DONE = "```bash\n", "DONE: "
_GRAMMAR = r"""
cmd ::= "```bash\n" first line{0,29} "```"
first ::= [^`\nD] [^`\n]{0,199} "\n"
line ::= [^`\n]{0,200} "\n"
done ::= "DONE: " [^\n]{1,300}
"""
GIVE_UP_AFTER = 4  # failed commands in a row
REPEATED = (
    "You just ran exactly this command and saw its output. Running it again changes nothing. "
    "Run a different command, or say DONE."
)
_AGENT = """You are a careful programmer who works in a Linux shell. Reply with exactly one of:
1. one fenced bash block; it is run and you are shown its output
2. DONE: and one sentence, only after a command has shown that the task is finished

Look before you change: read the files. Replace only the wrong piece. Then run the check again.

Example
User: greet.py has a bug: it should print hello. Fix it.
```bash
cat greet.py
python3 greet.py
```
Output:
def greet(name):
    return "helo " + name
print(greet("Ann"))
helo Ann
```bash
sed -i 's/return "helo " + name/return "hello " + name/' greet.py
python3 greet.py
```
Output:
hello Ann
DONE: greet.py prints hello now.
End of example."""
_FAILED = re.compile(r"No such file|command not found|Traceback|\bFAILED\b|[Ss]yntax ?[Ee]rror|can't read")


def is_agent(request: ModelRequest) -> bool:
    """Whether the model may act: there is a bash tool. Without one it just talks."""
    return any(tool.get("name") == "bash" for tool in request.tools)


def chat(request: ModelRequest) -> Chat:
    """The conversation as a small model can follow it."""
    system = "\n".join(str(block.get("text", "")) for block in request.system)[:LOCAL_SYSTEM_CHARS_MAX]
    if is_agent(request):
        system = _AGENT + (f"\n\n{system}" if system else "")
    turns: Chat = [{"role": "system", "content": system}] if system else []
    for message in request.messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        text = "\n".join(filter(None, (_said(block) for block in _blocks(message))))
        if text and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n" + text
        elif text:
            turns.append({"role": role, "content": text})
    return turns


def grammar(messages: Sequence[Mapping[str, Json]]) -> str:
    """What may be said next: DONE only after a command, and not right after a plain failure.

    Left to itself the model looks for a file that the task tells it to create, and declares the task done.
    After GIVE_UP_AFTER failures in a row it may say so.
    """
    failures = 0
    for message in reversed(messages):
        if message["role"] == "assistant":
            continue
        results = [block for block in _blocks(message) if block["type"] == "tool_result"]
        if not any(block.get("is_error") or _FAILED.search(_result_text(block)) for block in results):
            break
        failures += 1
    has_output = any(block["type"] == "tool_result" for block in _blocks(messages[-1]))
    may_end = has_output and (failures == 0 or failures >= GIVE_UP_AFTER)
    return ("root ::= cmd | done" if may_end else "root ::= cmd") + _GRAMMAR


def last_command(messages: Sequence[Mapping[str, Json]]) -> str | None:
    """The command of the latest bash call, if the last assistant turn made one."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            for block in reversed(_blocks(message)):
                if block["type"] == "tool_use":
                    return str(block["input"].get("command", "")).strip()
            return None
    return None


def command_of(reply: str) -> str:
    """The command in a fenced block, also in one that was cut off."""
    return reply.removeprefix(FENCE).removesuffix("```").strip("\n")


def _blocks(message: Mapping[str, Json]) -> Sequence[Block]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _said(block: Block) -> str:
    match block["type"]:
        case "text":
            return str(block["text"])
        case "tool_use" if block["name"] == "bash":
            return f"{FENCE}{block['input'].get('command', '')}\n```"
        case "tool_result":
            return "Output:\n" + _shortened(_result_text(block))
        case "image":
            return "[an image, which this model cannot see]"
        case "document":
            return "[a document, which this model cannot read]"
        case _:
            return ""


def _result_text(block: Block) -> str:
    content = block.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content)


def _shortened(text: str) -> str:
    """Head and tail: an error is at the end, what led to it at the beginning."""
    text = text.strip() or "(no output)"
    if len(text) <= LOCAL_RESULT_CHARS_MAX:
        return text
    half = LOCAL_RESULT_CHARS_MAX // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
