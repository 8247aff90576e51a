"""Uploading a checkpoint of the store to the hub, with its model card."""
