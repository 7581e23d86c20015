"""Git repositories of sessions: cloned here, checked out in sandboxes, kept between sessions.

    session's resource -> RepositorySource -> Mirrors -> `confine`: one git in a throw-away sandbox, and
                                                         the only way out of it

What a git server sends is hostile, and so is what lies in a repository. So no git ever runs on the host:

* Each git runs alone (`confine`), on the one copy that it works on; what it writes is watched.
  Its environment and configuration are fixed (`runner.py`): HTTPS only, no hooks, no submodules, no filters
  (so no LFS), objects checked as they arrive, nobody is asked for a password.
* Its way out leads to the hosts that the operator allows, at checked addresses. TLS is git's own.
* A copy of each repository is kept as a bare mirror (`mirrors.py`), bounded in size, age and number. A
  session costs one fetch, which transfers only news.
* What is fetched with a session's token is fetched through the egress process, which alone has the token
  (`private.py`), into mirrors of the session's workspace alone; no session gets anything of one before its
  own token has worked.
* The working tree, with a `.git` that has the origin's URL and all branches, is made in another throw-away
  sandbox without any way out, and leaves it as a tar; it is unpacked in the session's sandbox.

When anything fails, the session gets one of the documented `repository_*_error`s, goes on without the
repository, and tries again when it next begins to run (`failures.py`). A mirror that git cannot work with
is replaced by a fresh clone.
"""
