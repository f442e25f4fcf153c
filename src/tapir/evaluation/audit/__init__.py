"""A judge against people or against another judge: agreement, biases, cost."""
