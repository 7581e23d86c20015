"""The cases, a file per group. Importing this package fills `case.CASES`."""

from corral.conformance.cases import agents as agents
from corral.conformance.cases import environments as environments
from corral.conformance.cases import errors as errors
from corral.conformance.cases import events as events
from corral.conformance.cases import files as files
from corral.conformance.cases import memory_stores as memory_stores
from corral.conformance.cases import models as models
from corral.conformance.cases import repositories as repositories
from corral.conformance.cases import sessions as sessions
from corral.conformance.cases import skills as skills
from corral.conformance.cases import vaults as vaults
from corral.conformance.cases import work as work
