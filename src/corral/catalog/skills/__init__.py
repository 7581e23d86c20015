"""Skills: instructions and files that an agent reads when it needs them.

A skill is a directory with a SKILL.md, whose front matter says what it is called and when to use it. A
model is told of both and of the path, nothing more; it reads the file when the time has come.

Rules:
- A skill has one name for ever (`name`, its slug): of every version, of its directory in a sandbox, of the
  archive that is downloaded.
- A version never changes. What was uploaded, files or a zip of any make, is packed anew into one zip, the
  same bytes for the same files; nobody ever unpacks what a client has packed but `unzip`.
- What is uploaded is hostile until shown otherwise: every name and every size is checked before a byte is
  kept, and a refusal says which entry and why.
- A deleted version is gone from the API at once. Its package stays while a session has it, which may need
  it for a new sandbox.

    layout    what the files of a skill may be called
    manifest  SKILL.md
    unzip     reading a zip that somebody else has made
    package   from files to what is kept, and from that to a tar for a sandbox
    ports     what the store does
    attached  the `skills` of an agent
"""
