"""Full and read-only disks: one sentence, the last good checkpoint kept."""
