"""The web tools: `web_fetch` reads a page, `web_search` asks a search engine.

    hands --WebCall--> WebTools --+--> Fetcher --> one Python in a throw-away sandbox --Tunnel--> egress
                                  +--> SearchProvider (SearXNG at the operator's URL)

What a web server sends is hostile, and whoever wrote a page may have the agent ask for any URL. So:

* A page is fetched, unpacked and parsed by a Python that is alone in a bwrap of its own, without a network
  device, our environment or our files, with bounds on memory and time (`inside/`).
* Its way out is a tunnel to the egress process, as an errand of the session: only hosts that the call's
  rules allow, only ports of the web, and only addresses that are public, each of them written down.
* Redirects come back to us and are judged like the first URL (`fetch.py`).
* What it hands back is bounded text, from which the result is made (`results.py`).

The search engine is the operator's: its address is set by them, may be private, and what it answers is
bounded JSON, filtered by the rules of the call (`search.py`).

Nothing here needs a session's sandbox, keeps anything, or knows a secret.
"""
