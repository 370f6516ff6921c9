"""Data preparation: downloads, extraction and cleaning of text, one program or purpose a module."""
