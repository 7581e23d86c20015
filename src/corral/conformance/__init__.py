"""`corral conformance`: does a server, ours or any other, behave as official clients expect?

    surface.py   every endpoint that counts          case.py   what a case is and what it works with
    cases/       the cases, a file per group         run.py    runs them, side by side, bounded
    report.py    the table, and JUnit

Cases know the wire and nothing else: they use the unmodified official SDK with strict response validation,
and HTTP where an SDK would hide what is asked about. So they may be pointed at the hosted service, too;
what they make there, they delete or archive. Cases that need a model say so, and ask what any model can do.
"""
