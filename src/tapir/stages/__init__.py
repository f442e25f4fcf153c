"""The ten verbs of the method: answer judge tag select resample expand refine mix train evaluate."""
