"""Providers of sandboxes, one module each; `corral.testing.contract_provider` says what they must do.

`bwrap` is the default: `binary` finds it, `launch` puts a sandbox together, `seccomp` and `cgroup` bound
it, `process` holds it and makes sure that nothing of it is left.
"""
