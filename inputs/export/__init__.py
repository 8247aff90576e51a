"""Token data in the files that trainers of other houses read."""
