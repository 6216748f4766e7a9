"""Writes and reads the files of runs and exported models; nothing is trained here."""
