"""`tapir review`: the sample, the reviews on disk, the server, and a person at the keyboard."""
