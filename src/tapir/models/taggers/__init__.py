"""Taggers: TF-IDF, embeddings, encoder and language model."""
