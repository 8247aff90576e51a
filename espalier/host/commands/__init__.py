"""The words of commands and what they mean."""
