"""Who runs which brain, under which lease.

The worker starts a loop for each session that needs one: at once when a wake hint comes, and by the
sweep when the hint was lost or the earlier brain died. It renews the leases of running loops in batches,
and cancels a loop whose lease is lost. Correctness rests on the sweep; hints only save latency.
"""
