"""What runs and models leave on disk, and how it is read again; nothing is trained here."""
