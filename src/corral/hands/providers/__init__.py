"""Providers of sandboxes, one module each; `corral.testing.contract_provider` says what they must do.

`walled` is what those that make sandboxes on this machine have in common, on a workspace as `home` has it;
`walls` is what they differ in. `bwrap` is the default: `binary` finds it, `launch` puts a sandbox together,
`seccomp` and `cgroup` bound it, `process` holds it and makes sure that nothing of it is left.
"""
