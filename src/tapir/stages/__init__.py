"""The verbs of the method: respond answer judge label tag select resample expand refine mix train evaluate."""
