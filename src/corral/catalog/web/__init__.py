"""The web tools: which hosts and URLs an agent may reach with `web_fetch` and `web_search`.

    agent's config --settings.py--> stored config --rules.py--> WebRules of one call
                                                                     |
    URL that the model named --urls.py--> WebUrl ---- allowed? ------+

* `domains.py`: the lists `allowed_domains` and `blocked_domains`: what an entry may be, and what it covers.
* `settings.py`: the settings of the two tools, from request to stored form.
* `urls.py`: a URL as this server understands it, and the URLs that a text mentions.
* `rules.py`: what one call may reach: the tool's lists together with a `limited` environment's hosts.

Everything here is pure. Who fetches: `corral.web`. Source: API docs, tools "Web tool restrictions".
"""
