"""What leaves the run: students, data sets, and files for other trainers."""
