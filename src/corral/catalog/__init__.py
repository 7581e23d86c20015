"""The catalog: named, versioned, archivable records. Agents, environments, models; later files, skills,
memory stores and deployments. Each concept has its rules and one small store port here.

Records are kept as the wire shows them (plain JSON mappings under a typed head), because they are
snapshotted into sessions and must read back exactly as they were saved.
"""
